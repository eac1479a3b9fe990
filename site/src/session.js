// What a reload finds again: kept for this tab only, and by both pages.

const key = "ravnest";

export function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}

export function remember(more) {
  try {
    sessionStorage.setItem(key, JSON.stringify({ ...remembered(), ...more }));
  } catch {
    // Storage is off: a reload then begins afresh.
  }
}

// The host's token comes behind the #, which browsers send to nobody, or is typed in.
let held = new URLSearchParams(location.hash.slice(1)).get("token") ?? remembered().token ?? "";

export const token = () => held;

export function hold(token) {
  held = token;
  remember({ token });
}
