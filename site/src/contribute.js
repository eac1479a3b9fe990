// The page that lends this tab.

import { Tab, support } from "./tab.js";
import { lineChart } from "./chart.js";
import { $, bytes, count, el, note, ops, set } from "./words.js";

const memories = [128, 256, 512, 1024, 2048, 3072].map((mb) => mb * 2 ** 20);
const kept = "ravnest"; // what a reload finds again, for this tab only

const words = {
  loading: "Loading the engine …",
  benchmarking: "Measuring what this tab can do …",
  waiting: "Ready. Waiting for a part of a model …",
  connecting: "Connecting to the others …",
  training: "Training",
  paused: "Paused. The others are waiting for this tab.",
  stopped: "Not taking part",
};

const tab = new Tab();
let chart;
let rates = [];
let last = null;

const remembered = () => {
  try {
    return JSON.parse(sessionStorage.getItem(kept)) ?? {};
  } catch {
    return {};
  }
};
const remember = (more) => {
  try {
    sessionStorage.setItem(kept, JSON.stringify({ ...remembered(), ...more }));
  } catch {
    // Storage is off: a reload then begins afresh.
  }
};

function complain(problems) {
  const box = $("problems");
  box.replaceChildren(...problems.flatMap((p) => [el("h2", {}, sentence(p.text)), ...(p.hint ? [el("p", {}, sentence(p.hint) + ".")] : [])]));
  box.hidden = problems.length === 0;
}

const sentence = (s) => s.charAt(0).toUpperCase() + s.slice(1);

function show({ detail }) {
  const { state } = detail;
  const on = state !== "stopped";
  set($("state"), words[state] ?? state);
  $("state").className = `state ${state === "training" ? "good" : ""}`;
  $("go").textContent = on ? "Stop" : $("live").hidden ? "Lend this tab" : "Take part again";
  $("go").classList.toggle("on", on);
  for (const input of $("limits").elements) if (input.id === "cores" || input.id === "memory" || input.id === "token") input.disabled = on;
  document.title = `${on ? words[state].replace(/[ .…]+$/, "") : "Lend this tab"} · Ravnest`;
  if (state === "training" || state === "connecting") {
    $("live").hidden = false;
    chart ??= lineChart($("chart"), { series: [{ label: "samples/s", colour: "--accent", value: (v) => count(v) }], height: 150, time: true });
    set($("f-stage"), `${detail.role || "…"} ${detail.stage + 1} of ${detail.stages}`);
    last = null;
  }
  if (!on) {
    remember({ on: false });
    const bad = detail.code && detail.code !== "stopped";
    set($("detail"), detail.text && detail.text !== "stopped" && !bad ? sentence(detail.text) + "." : "");
    if (bad) complain([detail]);
    if (detail.code === "bad_token") $("token-row").hidden = false;
  }
}

function progress({ detail }) {
  const p = detail.progress;
  const now = performance.now();
  set($("f-stage"), `${detail.role} ${detail.stage + 1} of ${detail.stages}`);
  set($("f-samples"), count(p.samples));
  set($("f-flops"), ops(p.flops));
  set($("f-out"), bytes(p.wire_out));
  set($("f-in"), bytes(p.wire_in));
  set($("detail"), `${bytes(detail.peak_bytes)} of memory planned, busy ${Math.round(100 * p.busy)} % of the time`);
  if (!last || p.samples < last.samples) last = { at: now, samples: p.samples };
  if (now - last.at < 950) return;
  const rate = ((p.samples - last.samples) * 1000) / (now - last.at);
  last = { at: now, samples: p.samples };
  set($("f-rate"), count(rate));
  rates = [...rates.slice(-119), [Date.now() / 1000, rate]];
  chart.set([rates.map((r) => r[0]), rates.map((r) => r[1])]);
}

function begin() {
  complain([]);
  set($("detail"), "");
  remember({ on: true, cores: $("cores").value, memory: $("memory").value, token: $("token").value });
  tab.start({ token: $("token").value, threads: Number($("cores").value), ram: memories[$("memory").value] });
  hold();
}

// hold pauses or resumes, as the person wants it.
let battery = null;
function hold() {
  const hidden = $("when-hidden").checked && document.visibilityState === "hidden";
  const drained = $("on-battery").checked && battery && !battery.charging;
  if (hidden || drained) tab.pause();
  else tab.resume();
}

async function main() {
  set($("host"), location.host);
  const can = await support();
  const was = remembered();
  $("cores").max = can.isolated ? can.cores : 1;
  $("cores").value = was.cores ?? Math.max(1, Math.floor(can.cores / 2));
  $("cores").closest(".field").hidden = $("cores").max === "1";
  $("memory").max = Math.max(0, memories.findLastIndex((m) => m <= can.memory));
  $("memory").value = was.memory ?? Math.min(3, Number($("memory").max));
  const say = () => {
    set($("cores-out"), $("cores").value);
    set($("memory-out"), bytes(memories[$("memory").value], 2));
    $("memory").setAttribute("aria-valuetext", $("memory-out").textContent);
  };
  $("limits").addEventListener("input", say);
  $("limits").addEventListener("submit", (ev) => ev.preventDefault());
  say();

  // The token comes behind the #, which browsers send to nobody.
  $("token").value = new URLSearchParams(location.hash.slice(1)).get("token") ?? was.token ?? "";
  $("token-row").hidden = $("token").value === "";
  if (location.hash) $("to-dashboard").hash = location.hash;

  tab.addEventListener("state", show);
  tab.addEventListener("progress", progress);
  tab.addEventListener("log", ({ detail }) => note($("log"), detail));
  $("go").addEventListener("click", () => (tab.state === "stopped" ? begin() : tab.stop()));

  document.addEventListener("visibilitychange", hold);
  $("when-hidden").addEventListener("change", hold);
  $("on-battery").addEventListener("change", hold);
  if (can.battery) {
    battery = await navigator.getBattery().catch(() => null);
    $("battery-row").hidden = !battery;
    battery?.addEventListener("chargingchange", hold);
  }

  complain(can.problems);
  $("go").disabled = can.problems.length > 0;
  set($("state"), can.problems.length ? "This browser cannot take part" : words.stopped);
  if (was.on && !can.problems.length) {
    $("go").textContent = "Take part again";
    set($("detail"), "This tab took part until it was reloaded. The host knows that it left.");
    remember({ on: false });
  }
}

main();
