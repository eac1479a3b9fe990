// The diagram of a run: clusters, their chains of stages, and the traffic between them.

import { bytes, count, el, flop, set } from "./words.js";

export const kind = (m) => (m.platform.startsWith("js/") ? "tab" : "native");

const role = (m) => (m.stages === 1 ? "whole model" : m.stage === 0 ? "root" : m.stage === m.stages - 1 ? "leaf" : "stem");

const facts = {
  State: (m) => m.state,
  Busy: (m) => `${Math.round(100 * m.busy)} %`,
  Speed: (m) => `${Number(m.bench.gemm_gflops.toPrecision(2))} GFLOP/s`,
  Memory: (m) => bytes(m.rss_bytes || m.peak_bytes, 2),
  Computed: (m) => flop(m.flops),
  "To host": (m) => `${(m.rtt_us / 1000).toFixed(1)} ms`,
};

// stage returns a provider's card. update sets its figures.
function stage(m) {
  const values = Object.keys(facts).map(() => el("dd"));
  const bar = el("rect", { height: 6 });
  const node = el(
    "article",
    { class: `stage ${kind(m)}`, "aria-label": `Stage ${m.stage + 1}, ${role(m)}: ${m.name}` },
    el("h3", {}, `${m.name} `, el("span", { class: "badge" }, `${role(m)}, ${kind(m) === "tab" ? "tab" : m.platform}`)),
    el("svg", { class: "load", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, bar),
    el("dl", {}, ...Object.keys(facts).flatMap((name, i) => [el("dt", {}, name), values[i]])),
  );
  const update = (m) => {
    Object.values(facts).forEach((fact, i) => set(values[i], fact(m)));
    bar.setAttribute("width", 100 * m.busy);
  };
  return { node, update };
}

// link returns the connection between two stages: activations one way, gradients the other.
function link() {
  const rate = el("span", { class: "number" });
  const line = el("path", { d: "M0 6 H80", fill: "none", stroke: "currentColor", "stroke-width": "2", "stroke-dasharray": "5 5" });
  const node = el("div", { class: "link" }, el("svg", { viewBox: "0 0 80 12", preserveAspectRatio: "none", "aria-hidden": "true" }, line), rate);
  const update = (bytesPerSecond) => {
    set(rate, bytesPerSecond === undefined ? "" : `${bytes(bytesPerSecond)}/s`);
    node.classList.toggle("flows", bytesPerSecond > 0);
  };
  return { node, update };
}

// linkRates computes the traffic of each link in a chain from the traffic of each stage, which
// is the sum over its two links. It starts from both ends, as errors add up along the chain.
export function linkRates(moved) {
  const n = moved.length;
  const rates = new Array(n - 1);
  for (let i = 0; 2 * i < n - 1; i++) {
    rates[i] = Math.max(0, moved[i] - (rates[i - 1] ?? 0));
    rates[n - 2 - i] = Math.max(0, moved[n - 1 - i] - (rates[n - 1 - i] ?? 0));
  }
  return rates;
}

// Pipeline draws into host.
export class Pipeline {
  #host;
  #layout = "";
  #chains = [];
  #titles = [];

  constructor(host) {
    this.#host = host;
  }

  // draw shows the members that have a stage. rates holds their traffic in bytes per second,
  // by name, as far as it is known; clusters says what each does where there are several.
  draw(members, rates, shares = []) {
    const placed = members.filter((m) => m.assigned).sort((a, b) => a.cluster - b.cluster || a.stage - b.stage);
    const clusters = [...Map.groupBy(placed, (m) => m.cluster).values()];
    const layout = JSON.stringify(placed.map((m) => [m.cluster, m.stage, m.name, m.platform]));
    if (layout !== this.#layout) this.#build(clusters);
    this.#layout = layout;
    const least = Math.min(...shares.map((s) => s.step));
    clusters.forEach((chain, c) => {
      const share = shares.find((s) => s.cluster === chain[0].cluster);
      if (share && this.#titles[c]) {
        const said = [`${share.replicas} ${share.replicas === 1 ? "replica" : "replicas"}`];
        const rate = rates.get(chain.at(-1).name)?.samples;
        const forecast = share.forecast_samples_per_s ? ` of ${count(Math.round(share.forecast_samples_per_s))} forecast` : "";
        if (rate !== undefined) said.push(`${count(rate)} samples/s${forecast}`);
        if (share.step > least) said.push(`${share.step - least} batches ahead`);
        set(this.#titles[c], ` · ${said.join(" · ")}`);
      }
      const known = chain.every((m) => rates.has(m.name));
      const carried = known ? linkRates(chain.map((m) => rates.get(m.name).moved)) : [];
      chain.forEach((m, i) => {
        this.#chains[c][i].stage.update(m);
        this.#chains[c][i].link?.update(carried[i]);
      });
    });
  }

  #build(clusters) {
    this.#chains = clusters.map((chain) => chain.map((m, i) => ({ stage: stage(m), ...(i + 1 < chain.length && { link: link() }) })));
    this.#host.replaceChildren(
      ...this.#chains.map((chain, c) => {
        const items = chain.map(({ stage, link }) => el("li", {}, stage.node, ...(link ? [link.node] : [])));
        this.#titles[c] = el("span", { class: "muted" });
        const title = clusters.length > 1 ? [el("h3", {}, `Cluster ${c}`, this.#titles[c])] : [];
        return el("div", { class: "cluster" }, ...title, el("ol", { class: "stages" }, ...items));
      }),
    );
  }
}
