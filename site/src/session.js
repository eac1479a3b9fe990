// State that survives a reload, kept for this tab only and shared by both pages.

import { readings } from "./token.js";

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
    // Storage is disabled: a reload then loses the state.
  }
}

// The host's token comes with the link or is typed in.
const given = readings(location.hash);
let held = given[0] ?? remembered().token ?? "";

// shown is what was given or typed; token is what to use, a pass of an earlier visit included.
export const shown = () => held;
export const token = () => held || pass() || "";

// pass is the token of this browser's own that the host has given it, kept for its next visit.
const passKey = `ravnest-pass ${new URL(".", location.href).pathname}`;

function pass() {
  try {
    return localStorage.getItem(passKey);
  } catch {
    return null;
  }
}

export function keepPass(token) {
  try {
    if (token) localStorage.setItem(passKey, token);
    else localStorage.removeItem(passKey);
  } catch {
    // Storage is off: an invitation works for this visit.
  }
}

export function hold(token) {
  held = token;
  remember({ token });
}

// otherReading switches to the other reading of the link, after the host has refused the
// current one. It returns false if there is none.
export function otherReading() {
  if (given.length < 2 || held !== given[0]) return false;
  hold(given[1]);
  return true;
}
