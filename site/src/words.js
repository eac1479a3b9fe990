// Figures and small pieces of page, the same on both pages.

const steps = (units, base) => (n, digits = 3) => {
  if (!(n > 0)) return `0 ${units[0]}`.trim();
  const i = Math.min(units.length - 1, Math.floor(Math.log(n) / Math.log(base)));
  const v = n / base ** Math.max(i, 0);
  return `${i < 1 && n >= 100 ? Math.round(n) : Number(v.toPrecision(digits))} ${units[Math.max(i, 0)]}`.trim();
};

export const bytes = steps(["B", "kB", "MB", "GB", "TB"], 1000);
export const count = steps(["", "k", "M", "G", "T"], 1000);
export const ops = steps(["op", "kop", "Mop", "Gop", "Top", "Pop"], 1000);

export const duration = (ms) => {
  const s = Math.round(ms / 1000);
  return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};

export const $ = (id) => document.getElementById(id);

// el makes an element; attributes that are null are left out.
export function el(name, attributes = {}, ...children) {
  const e = document.createElementNS(name === "svg" || name === "path" || name === "rect" ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", name);
  for (const [k, v] of Object.entries(attributes)) if (v !== null) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// set writes text only where it changed: what is read out stays quiet otherwise.
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// note adds a line to a log, newest first, and returns it.
export function note(list, text, when = new Date()) {
  const line = el("li", {}, el("time", { datetime: when.toISOString() }, when.toLocaleTimeString()), text);
  list.prepend(line);
  while (list.children.length > 200) list.lastChild.remove();
  return line;
}
