// Reading the join token from a link and sending it with requests.

// readings returns the possible tokens in a link's fragment, which browsers never send. The
// token is everything after "#token=", including + and &. Browsers escape characters that are
// not ASCII, and links may escape any, so valid escapes are decoded. If that changes the text,
// the original text is the second reading, for a token that itself contains a %.
export function readings(hash) {
  const prefix = "#token=";
  if (!hash.startsWith(prefix)) return [];
  const raw = hash.slice(prefix.length);
  try {
    const plain = decodeURIComponent(raw);
    return plain === raw ? [raw] : [plain, raw];
  } catch {
    // There is a % that is not an escape. Still decode what the browser has escaped.
    return [raw.replace(/(%[89a-f][0-9a-f])+/gi, (m) => { try { return decodeURIComponent(m); } catch { return m; } })];
  }
}

// authorization returns the header for requests. The token is encoded in base64url, since
// headers can only carry Latin-1.
export function authorization(token) {
  if (!token) return {};
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(token)));
  return { Authorization: `Ravnest ${base64.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}` };
}
