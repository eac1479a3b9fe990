// The page that lends this tab.

import { Tab, support } from "./tab.js";
import { lineChart } from "./chart.js";
import { hold, keepPass, otherReading, remember, remembered, shown, token } from "./session.js";
import { $, bytes, count, el, flop, hostURL, note, plain, sentence, set } from "./words.js";

const memories = [125, 250, 500, 1000, 2000, 3000].map((mb) => mb * 1e6);

// allowed are the fields of what the tab may use; they stand while it takes part.
const allowed = ["cores", "memory", "up", "down", "from", "to", "token"];

const words = {
  loading: "Loading the engine …",
  benchmarking: "Measuring what this tab can do …",
  resting: "Resting …",
  seeking: "The host does not answer. Looking for it …",
  waiting: "Ready. Waiting for a part of a model …",
  fetching: "Fetching a part of the model …",
  connecting: "Connecting to the others …",
  training: "Training",
  paused: "Paused. The others are waiting for this tab.",
  leaving: "Leaving once this part is saved …",
  stopped: "Not taking part",
};

const tab = new Tab();
let chart;
let rates = []; // [seconds since the start, samples per second]
let began = 0;
let last = null; // the figures from which the last rate was computed

function complain(problems) {
  const box = $("problems");
  box.replaceChildren(...problems.flatMap((p) => [el("h2", {}, sentence(p.text)), ...(p.hint ? [el("p", {}, `${sentence(p.hint)}.`)] : [])]));
  box.hidden = problems.length === 0;
}

function show({ detail }) {
  const { state } = detail;
  const on = state !== "stopped";
  set($("state"), words[state] ?? state);
  $("state").classList.toggle("good", state === "training");
  $("go").textContent = state === "leaving" ? "Stop now" : on ? "Stop" : $("live").hidden ? "Lend this tab" : "Take part again";
  $("go").classList.toggle("on", on);
  for (const id of allowed) $(id).disabled = on;
  document.title = `${on ? words[state].replace(/[ .…]+$/, "") : "Lend this tab"} · Ravnest`;
  if (state === "fetching") assigned(detail);
  else if (state === "seeking" || state === "waiting" || state === "resting") set($("detail"), detail.text ? `${sentence(detail.text)}.` : "");
  if (!on) ended(detail);
}

// assigned shows the figures of a new assignment.
function assigned(place) {
  $("live").hidden = false;
  chart ??= lineChart($("chart"), { label: "samples/s", colour: "--accent", say: count, xLabel: "s", height: 150, fromZero: true });
  set($("f-stage"), named(place));
  rates = [];
  last = null;
}

function ended({ code, text, hint }) {
  remember({ on: false });
  if (code === "bad_token" && otherReading()) {
    $("token").value = token();
    setTimeout(begin);
    return;
  }
  if (code === "bad_token") {
    keepPass("");
    $("token-row").hidden = false;
  }
  const why = code || text === "stopped" ? [] : [`${sentence(text)}.`];
  const thanks = last ? [`Thank you: this tab trained ${$("f-samples").textContent} samples.`] : [];
  set($("detail"), [...why, ...thanks].join(" "));
  if (code && code !== "stopped") complain([{ text, hint }]);
}

const named = ({ role = "", stage, stages }) => (stages === 1 ? "whole model" : `${role} ${stage + 1} of ${stages}`.trim());

function progress({ detail }) {
  const p = detail.progress;
  const now = performance.now();
  set($("f-stage"), named(detail));
  set($("f-samples"), count(p.samples));
  set($("f-flops"), flop(p.flops));
  set($("f-out"), bytes(p.wire_out));
  set($("f-in"), bytes(p.wire_in));
  set($("detail"), `Computing ${Math.round(100 * p.busy)} % of the time, within ${bytes(detail.peak_bytes)} of memory`);
  if (!last) began = now;
  if (last && now - last.at < 950) return;
  if (last) {
    const rate = ((p.samples - last.samples) * 1000) / (now - last.at);
    set($("f-rate"), count(rate));
    rates = [...rates.slice(-119), [(now - began) / 1000, rate]];
    chart.set(rates);
  }
  last = { at: now, samples: p.samples };
}

// hours are those in which the tab may be lent; "" is the whole day.
const hours = () => ($("from").value && $("to").value ? `${$("from").value}-${$("to").value}` : "");

function begin() {
  const [from, to] = [$("from").value, $("to").value];
  $("to").setCustomValidity(!from !== !to ? "Give both times, or neither." : from && from === to ? "The two times are the same." : "");
  if (!$("limits").reportValidity()) return;
  complain([]);
  set($("detail"), "");
  last = null;
  hold($("token").value);
  remember({ on: true, ...Object.fromEntries(allowed.filter((id) => id !== "token").map((id) => [id, $(id).value])) });
  tab.start({
    host: hostURL(), token: token(), threads: Number($("cores").value), ram: memories[$("memory").value],
    up: Number($("up").value), down: Number($("down").value), hours: hours(),
  });
  pauseOrNot();
}

let battery = null;
function watchBattery(b) {
  battery = b;
  $("battery-row").hidden = false;
  battery.addEventListener("chargingchange", pauseOrNot);
  pauseOrNot();
}

// pauseOrNot pauses or resumes, depending on the settings.
function pauseOrNot() {
  const hidden = $("when-hidden").checked && document.visibilityState === "hidden";
  const drained = $("on-battery").checked && battery && !battery.charging;
  if (hidden || drained) tab.pause();
  else tab.resume();
}

async function main() {
  set($("host"), location.host);
  $("plain").hidden = !plain();
  const can = await support();
  const was = remembered();
  $("cores").max = can.isolated ? can.cores : 1;
  $("cores").value = was.cores ?? Math.max(1, Math.floor(can.cores / 2));
  $("cores").closest(".field").hidden = $("cores").max === "1";
  $("one-core").hidden = can.isolated;
  $("lacks").replaceChildren(...can.lacks.map((text) => el("li", {}, text)));
  $("lacks").parentElement.hidden = can.lacks.length === 0;
  $("memory").max = Math.max(0, memories.findLastIndex((m) => m <= can.memory));
  $("memory").value = was.memory ?? Math.min(3, Number($("memory").max));
  for (const id of ["up", "down", "from", "to"]) $(id).value = was[id] ?? "";
  const say = () => {
    set($("cores-out"), $("cores").value);
    set($("memory-out"), bytes(memories[$("memory").value], 2));
    $("memory").setAttribute("aria-valuetext", $("memory-out").textContent);
  };
  $("limits").addEventListener("input", say);
  $("limits").addEventListener("submit", (ev) => ev.preventDefault());
  say();

  $("token").value = shown();
  $("token-row").hidden = $("token").value === "";
  if (location.hash) $("to-dashboard").hash = location.hash;

  tab.addEventListener("state", show);
  tab.addEventListener("progress", progress);
  tab.addEventListener("pass", ({ detail }) => keepPass(detail));
  tab.addEventListener("identity", ({ detail: { key, why } }) => {
    $("who").hidden = false;
    set($("who"), key ? `The host knows this browser by its key ${key.slice(0, 12)}…` : `This browser keeps no key, as ${why}: it can join with a token, and not by invitation.`);
  });
  tab.addEventListener("log", ({ detail }) => note($("log"), detail));
  $("go").addEventListener("click", () => (tab.state === "stopped" ? begin() : tab.stop()));

  document.addEventListener("visibilitychange", pauseOrNot);
  $("when-hidden").addEventListener("change", pauseOrNot);
  $("on-battery").addEventListener("change", pauseOrNot);
  if (can.battery) navigator.getBattery().then(watchBattery, () => {}); // may take a while

  complain(can.problems);
  $("go").disabled = can.problems.length > 0;
  set($("state"), can.problems.length ? "This browser cannot take part" : words.stopped);
  if (was.on && !can.problems.length) {
    $("go").textContent = "Take part again";
    set($("detail"), "This tab took part until it was reloaded. The host was told that it left.");
    remember({ on: false });
  }
}

main();
