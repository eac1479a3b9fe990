// The requester's view of a run: asked of the host every second, drawn here.

import { lineChart } from "./chart.js";
import { $, bytes, count, duration, el, note, ops, set } from "./words.js";

const phases = {
  idle: "Idle: no run",
  gathering: "Waiting for providers",
  planning: "Planning",
  connecting: "Connecting",
  running: "Training",
  draining: "Finishing",
};

let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
let seen = 0; // number of the newest note
let charts = null;
let over = ""; // how the last run ended
let before = null; // the last status, for rates

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function ask(path) {
  const response = await fetch(path, { headers: headers(), cache: "no-store" });
  if (response.status === 401) throw Object.assign(new Error("the host wants its token"), { token: true });
  if (!response.ok) throw new Error(`the host answers ${response.status}`);
  return response.json();
}

function problem(text) {
  $("problem").hidden = !text;
  if (text) set($("problem"), text);
}

// rates are what changed since the last status, per second, by provider.
function rates(status, now) {
  const result = new Map();
  if (before && before.status.run === status.run) {
    const s = (now - before.now) / 1000;
    for (const m of status.members) {
      const was = before.status.members.find((o) => o.name === m.name && o.stage === m.stage);
      if (was && m.samples >= was.samples) result.set(m.name, { moved: (m.wire_out + m.wire_in - was.wire_out - was.wire_in) / s, samples: (m.samples - was.samples) / s, flops: (m.flops - was.flops) / s });
    }
  }
  before = { status, now };
  return result;
}

const isTab = (m) => m.platform.startsWith("js/");
const role = (m) => (m.stages === 1 ? "whole model" : m.stage === 0 ? "root" : m.stage === m.stages - 1 ? "leaf" : "stem");

function stageCard(m) {
  const facts = [
    ["State", m.state],
    ["Speed", `${m.bench.gemm_gflops.toFixed(m.bench.gemm_gflops < 10 ? 1 : 0)} GFLOP/s`],
    ["Memory", m.rss_bytes ? bytes(m.rss_bytes, 2) : bytes(m.peak_bytes, 2)],
    ["Busy", `${Math.round(100 * m.busy)} %`],
    ["Given", ops(m.flops)],
    ["To host", `${(m.rtt_us / 1000).toFixed(1)} ms`],
  ];
  return el(
    "article",
    { class: `stage ${isTab(m) ? "tab" : ""}`, "aria-label": `stage ${m.stage + 1}, ${role(m)}: ${m.name}` },
    el("h3", {}, `${m.name} `, el("span", { class: "badge" }, `${role(m)}, ${isTab(m) ? "tab" : m.platform}`)),
    el("div", { class: "load" }, el("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, el("rect", { width: 100 * m.busy, height: 6, rx: 2, fill: `var(${isTab(m) ? "--tab" : "--native"})` }))),
    el("dl", {}, ...facts.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
  );
}

// linkBetween shows what goes both ways: activations to the right, gradients back.
function linkBetween(rate) {
  const arrow = el("path", { d: "M2 6 H78 M73 2 L78 6 L73 10 M7 2 L2 6 L7 10", fill: "none", stroke: "currentColor", "stroke-width": "1.5" });
  return el("div", { class: "link" }, el("svg", { viewBox: "0 0 80 12", preserveAspectRatio: "none", "aria-hidden": "true" }, arrow), el("span", {}, rate === undefined ? "" : `${bytes(rate)}/s`));
}

// linkRates of a chain: what a stage moves is on the links to its two sides.
function linkRates(members, rate) {
  let left = 0;
  return members.slice(0, -1).map((m) => (left = rate.has(m.name) && left !== undefined ? Math.max(0, rate.get(m.name).moved - left) : undefined));
}

function drawClusters(status, rate) {
  const clusters = Map.groupBy(status.members.filter((m) => m.assigned), (m) => m.cluster);
  $("clusters").replaceChildren(
    ...[...clusters].map(([c, members]) => {
      members.sort((a, b) => a.stage - b.stage);
      const links = linkRates(members, rate);
      const items = members.map((m, i) => el("li", {}, stageCard(m), ...(i + 1 < members.length ? [linkBetween(links[i])] : [])));
      return el("div", { class: "cluster" }, ...(clusters.size > 1 ? [el("h3", {}, `Cluster ${c + 1}`)] : []), el("ol", { class: "stages" }, ...items));
    }),
  );
  const idle = status.members.filter((m) => !m.assigned);
  const words = [];
  if (status.want > status.members.length) words.push(`${status.members.length} of ${status.want} providers are here.`);
  if (idle.length) words.push(`Waiting: ${idle.map((m) => `${m.name} (${isTab(m) ? "tab" : m.platform})`).join(", ")}.`);
  if (!words.length && !clusters.size) words.push("No provider is here.");
  $("waiting").hidden = words.length === 0;
  set($("waiting"), words.join(" "));
}

function drawFigures(status, rate) {
  const running = status.members.filter((m) => m.assigned);
  // All stages see every sample: the leaf's count is the run's.
  const leaves = running.filter((m) => m.stage === m.stages - 1);
  const total = (f) => running.reduce((sum, m) => sum + f(m), 0);
  const persecond = (list, key) => (list.some((m) => rate.has(m.name)) ? list.reduce((sum, m) => sum + (rate.get(m.name)?.[key] ?? 0), 0) : undefined);
  const speed = persecond(leaves, "samples");
  const flops = persecond(running, "flops");
  if (speed !== undefined) set($("rate"), count(speed));
  if (flops !== undefined) set($("flops"), `${ops(flops)}/s`);
  if (status.loss) set($("loss"), typeof status.loss.loss === "number" ? status.loss.loss.toFixed(4) : status.loss.loss);
  if (status.val) set($("val"), `${((100 * status.val.correct) / Math.max(1, status.val.total)).toFixed(2)} %`);
  if (status.loss) set($("epoch"), String(status.loss.epoch + 1));
  if (status.running_ms) set($("time"), duration(status.running_ms));
  const out = total((m) => m.wire_out);
  const raw = total((m) => m.raw_out);
  if (running.length) set($("sent"), bytes(out));
  if (raw > 0) set($("saved"), raw > out ? `${bytes(raw - out)} (${Math.round((100 * (raw - out)) / raw)} %)` : "nothing");
}

function drawHistory(history) {
  $("all").hidden = false;
  charts ??= {
    loss: lineChart($("loss-chart"), { series: [{ label: "loss", colour: "--accent", value: (v) => v.toFixed(4) }], xLabel: "batch" }),
    val: lineChart($("val-chart"), { series: [{ label: "accuracy, %", colour: "--good", value: (v) => v.toFixed(2), points: true }], xLabel: "batch" }),
  };
  charts.loss.set([history.losses.map((p) => p[0]), history.losses.map((p) => p[1])]);
  charts.val.set([history.vals.map((p) => p[0]), history.vals.map((p) => 100 * p[1])]);
  for (const n of history.notes) {
    seen = Math.max(seen, n.seq);
    note($("events"), n.text, new Date(n.at_ms)).classList.add(`kind-${n.kind}`);
    if (n.kind === "done" || n.kind === "failed") over = n.kind;
    if (n.kind === "started") over = "";
  }
}

function drawPhase(status) {
  const ended = status.phase === "idle" && over;
  set($("job"), status.job || "Dashboard");
  set($("phase"), ended ? (over === "done" ? "Done" : "Failed") : (phases[status.phase] ?? status.phase));
  $("phase").className = `phase ${ended ? over : status.phase}`;
  document.title = `${$("phase").textContent} · Ravnest`;
}

async function look() {
  try {
    const [status, history] = await Promise.all([ask("/v1/status"), ask(`/v1/history?after=${seen}`)]);
    problem("");
    $("token-form").hidden = true;
    drawHistory(history);
    const rate = rates(status, performance.now());
    drawFigures(status, rate);
    drawClusters(status, rate);
    drawPhase(status);
  } catch (err) {
    if (err.token) {
      $("token-form").hidden = false;
      set($("phase"), "");
      return; // until it is given
    }
    const gone = err instanceof TypeError;
    problem(gone ? "The host does not answer. It may have ended, as it does after a run; its results are where it was started." : `Something is wrong: ${err.message}.`);
    if (gone && over) problem("");
    set($("phase"), over === "done" ? "Done" : over === "failed" ? "Failed" : "No answer");
    $("phase").className = `phase ${over || "failed"}`;
  }
  setTimeout(look, document.visibilityState === "hidden" ? 5000 : 1000);
}

$("token-form").addEventListener("submit", (ev) => {
  ev.preventDefault();
  token = $("token").value;
  look();
});
if (location.hash) $("to-contribute").hash = location.hash;
look();
