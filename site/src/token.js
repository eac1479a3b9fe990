// How a join token comes with a link and goes with a request.

// readings of a link's fragment, which browsers send to nobody: the token is everything
// behind "#token=", + and & included. Browsers escape what is not ASCII, and links may
// escape anything, so valid escapes are undone; where that changes something, the text as
// it stands is kept as the other reading, for a token that has a % of its own.
export function readings(hash) {
  const prefix = "#token=";
  if (!hash.startsWith(prefix)) return [];
  const raw = hash.slice(prefix.length);
  try {
    const plain = decodeURIComponent(raw);
    return plain === raw ? [raw] : [plain, raw];
  } catch {
    // A % that escapes nothing. Letters that the browser has escaped are read all the same.
    return [raw.replace(/(%[89a-f][0-9a-f])+/gi, (m) => { try { return decodeURIComponent(m); } catch { return m; } })];
  }
}

// authorization is the header for requests: headers have no other letters than Latin-1.
export function authorization(token) {
  if (!token) return {};
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(token)));
  return { Authorization: `Ravnest ${base64.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}` };
}
