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

export const token = () => held;

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
