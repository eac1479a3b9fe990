// Formatting of figures and other helpers shared by both pages.

const steps = (units) => (n, digits = 3) => {
  if (!(n > 0)) return `0 ${units[0]}`;
  const i = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log10(n) / 3)));
  const v = n / 1000 ** i;
  return `${v >= 100 ? Math.round(v) : Number(v.toPrecision(digits))} ${units[i]}`;
};

export const bytes = steps(["B", "kB", "MB", "GB", "TB"]);
export const flop = steps(["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"]);

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const millions = steps(["", "thousand", "million", "billion"]);
export const count = (n) => (n < 100 ? String(Number(n.toPrecision(3))) : n < 1e7 ? grouped.format(n) : millions(n));

export const duration = (ms) => {
  const s = Math.round(ms / 1000);
  return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};

export const sentence = (s) => `${s.charAt(0).toUpperCase()}${s.slice(1)}`;

export const $ = (id) => document.getElementById(id);

const drawn = new Set(["svg", "path", "rect"]);

export function el(name, attributes = {}, ...children) {
  const e = drawn.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// set writes text only if it has changed, so that screen readers do not repeat it.
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// note adds a line to a log, newest first, and returns it.
export function note(list, text, when = new Date()) {
  const line = el("li", {}, el("time", { datetime: when.toISOString() }, when.toLocaleTimeString("en", { hourCycle: "h23" })), text);
  list.prepend(line);
  while (list.children.length > 200) list.lastChild.remove();
  return line;
}

// hostURL returns the address of this page's host, including any path prefix of a proxy.
export const hostURL = () => new URL(".", location.href).href.replace(/[?#].*$/, "").replace(/\/$/, "");

// plain reports whether others on the network can read the traffic of this page.
export const plain = ({ protocol, hostname } = location) => protocol === "http:" && !/^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
