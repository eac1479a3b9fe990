// The dashboard: the requester's view of a run.

import { lineChart } from "./chart.js";
import { Pipeline, kind } from "./pipeline.js";
import { hold, otherReading, token } from "./session.js";
import { authorization } from "./token.js";
import { $, bytes, count, duration, flop, hostURL, note, plain, sentence, set } from "./words.js";

const phases = {
  idle: "Idle: no run",
  standby: "Standing by",
  gathering: "Waiting for providers",
  planning: "Planning",
  connecting: "Connecting",
  running: "Training",
  draining: "Finishing",
  done: "Done",
  failed: "Failed",
};

const span = 3000; // ms over which rates are computed
const patience = 10_000; // ms of silence after which the host counts as lost

const pipeline = new Pipeline($("clusters"));
const charts = {};
let seen = 0; // time of the newest note
let ending = null; // the last note of the last run
let members = []; // of the last status, and those who are done
let regression = false; // validation has a loss and no answers
let figures = ""; // the job's other metrics of the last validation pass
let recent = []; // statuses of the last span, with their time

// views yields the host's Views, one per line of JSON, until the stream ends.
async function* views() {
  const silence = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new TypeError("the host is silent")), patience);
  };
  alive();
  try {
    const response = await fetch(`v1/watch?after=${seen}`, { headers: authorization(token()), cache: "no-store", signal: silence.signal });
    if (!response.ok) throw Object.assign(new Error(`the host answered ${response.status}`), { status: response.status });
    const text = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await text.read();
      if (done) throw new TypeError("the host has ended");
      alive();
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

// updated reports whether the host now has another build of this page.
async function updated() {
  const { ok } = await fetch(import.meta.url, { method: "HEAD", cache: "no-store" });
  return !ok;
}

function problem(text) {
  $("problem").hidden = !text;
  set($("problem"), text);
}

function showPhase(phase, words = phases[phase] ?? phase) {
  set($("phase"), words);
  $("phase").className = `phase ${phase}`;
  document.title = `${words || "Dashboard"} · Ravnest`;
}

const accuracy = (share) => `${(100 * share).toFixed(2)} %`;
const loss = (v) => (typeof v === "number" ? v.toPrecision(4) : v); // JSON has no NaN: the host sends a string

function showHistory({ losses, vals, val_losses: valLosses, wire_out: out, raw_out: raw, notes }) {
  $("all").hidden = false;
  charts.loss ??= lineChart($("loss-chart"), { label: "loss", colour: "--accent", say: loss, xLabel: "batch" });
  regression = vals.length === 0 && valLosses.length > 0;
  if (!charts.val || (regression !== charts.valIsLoss && (regression || vals.length > 0))) {
    $("val-chart").replaceChildren();
    const name = regression ? "Validation loss" : "Validation accuracy";
    set($("val-name"), name);
    set($("val-title"), regression ? name : `${name}, %`);
    $("val-chart").setAttribute("aria-label", `${name} over batches`);
    charts.val = lineChart($("val-chart"), regression
      ? { label: "loss", colour: "--good", say: loss, xLabel: "batch", points: true }
      : { label: "right", colour: "--good", say: (v) => `${v.toFixed(2)} %`, xLabel: "batch", points: true });
    charts.valIsLoss = regression;
  }
  charts.loss.set(losses);
  charts.val.set(regression ? valLosses : vals.map(([step, share]) => [step, 100 * share]));
  $("curves").hidden = losses.length === 0;
  if (raw > 0) {
    set($("sent"), bytes(out));
    set($("saved"), raw > out ? `${bytes(raw - out)}, ${Math.round((100 * (raw - out)) / raw)} %` : "nothing");
  }
  for (const n of notes) {
    note($("events"), n.text, new Date(n.at_us / 1000)).classList.add(`kind-${n.kind}`);
    if (n.kind === "planned") ending = null;
    if (n.kind === "done" || n.kind === "failed") ending = n;
  }
  seen = notes.at(-1)?.at_us ?? seen;
  showEnding(losses, vals, valLosses);
}

function showEnding(losses, vals, valLosses) {
  $("ending").hidden = !ending;
  if (!ending) return;
  $("waiting").hidden = $("invite").hidden = true;
  showPhase(ending.kind);
  pipeline.draw(members.map((m) => ({ ...m, state: "ended", busy: 0 })), new Map());
  $("ending").classList.toggle("alert", ending.kind === "failed");
  set($("ending-title"), sentence(ending.text));
  const came = [];
  for (const [, v] of losses.slice(-1)) {
    set($("loss"), loss(v));
    came.push(`loss ${loss(v)}`);
  }
  for (const [, v] of vals.slice(-1)) {
    set($("val"), accuracy(v) + figures);
    came.push(`${accuracy(v)} of the validation data right`);
  }
  for (const [, v] of regression ? valLosses.slice(-1) : []) {
    set($("val"), loss(v) + figures);
    came.push(`validation loss ${loss(v)}`);
  }
  set($("ending-text"), `${came.length ? `At the end: ${came.join(", ")}. ` : ""}What was saved is in the job's directory, where ravnest was started.`);
}

// rates returns each member's figures per second over the last span, by name.
function rates(status, now) {
  recent = recent.filter((r) => r.status.run === status.run && now - r.now <= span);
  recent.push({ status, now });
  const { status: old, now: then } = recent[0];
  const s = (now - then) / 1000;
  const result = new Map();
  if (s < 0.5) return result;
  for (const m of status.members) {
    const was = old.members.find((o) => o.name === m.name && o.assigned);
    const per = (f) => (f(m) - f(was)) / s;
    if (was && m.samples >= was.samples) result.set(m.name, { moved: Math.max(0, per((x) => x.wire_out + x.wire_in - 2 * x.average_out)), samples: per((x) => x.samples), flops: per((x) => x.flops) });
  }
  return result;
}

function showFigures(status, rate) {
  $("figures").hidden = !status.running_ms;
  const at = members.filter((m) => m.assigned);
  const sum = (list, f) => list.reduce((total, m) => total + f(m), 0);
  if (at.length && at.every((m) => rate.has(m.name))) {
    // Every stage of a cluster sees all of its samples, so count the leaf's only.
    set($("rate"), count(sum(at.filter((m) => m.stage === m.stages - 1), (m) => rate.get(m.name).samples)));
    set($("flops"), `${flop(sum(at, (m) => rate.get(m.name).flops))}/s`);
  }
  if (status.loss) {
    set($("loss"), loss(status.loss.loss));
    set($("epoch"), String(status.loss.epoch + 1));
  }
  if (status.val) {
    figures = (status.val.metrics ?? []).map((m) => ` · ${m.name} ${loss(m.value)}`).join("");
    set($("val"), (status.val.total ? accuracy(status.val.correct / status.val.total) : loss(status.val.loss)) + figures);
  }
  $("forecast-row").hidden = !status.forecast_samples_per_s;
  if (status.forecast_samples_per_s) set($("forecast"), `${count(Math.round(status.forecast_samples_per_s))}/s`);
  const record = status.record ?? [];
  $("replicas-row").hidden = record.length === 0;
  if (record.length > 0) set($("replicas"), `${record.at(-1).replicas}, from step ${count(record.at(-1).step)} on`);
  $("checkpoint-row").hidden = !status.checkpoint;
  if (status.checkpoint) set($("checkpoint"), count(status.checkpoint.step));
  $("round-row").hidden = !status.round;
  if (status.round) set($("round"), String(status.round));
  if (status.running_ms) set($("time"), duration(status.running_ms));
}

function showWaiting(status) {
  const gathering = status.phase === "gathering" || status.phase === "idle";
  const standby = status.phase === "standby";
  $("invite").hidden = !gathering;
  $("waiting").hidden = !gathering && !standby;
  if (standby) {
    set($("waiting"), `${sentence(status.waiting)}.`);
    return;
  }
  const here = status.members.slice(0, 50).map((m) => `${m.name} (${kind(m) === "tab" ? "tab" : m.platform})`);
  const why = status.waiting ? ` ${sentence(status.waiting)}.` : "";
  set($("waiting"), `${status.members.length} of ${status.want} providers are here${here.length ? `: ${here.join(", ")}` : ""}.${why}`);
}

function showStatus(status) {
  if (status.phase === "idle" && ending) return; // keep showing the last run
  set($("job"), status.job || "Dashboard");
  // Members that are done leave at the end. Keep showing them.
  const ends = status.phase === "draining" && members.length > 0;
  members = ends ? members.map((m) => status.members.find((o) => o.name === m.name && o.assigned) ?? m) : status.members;
  const rate = rates(status, performance.now());
  showPhase(status.phase);
  showFigures(status, rate);
  showWaiting(status);
  $("unsaved").hidden = !status.unsaved;
  set($("unsaved"), status.unsaved ? `Nothing can be saved now: ${status.unsaved}. The last checkpoint stays.` : "");
  pipeline.draw(members, rate, status.clusters);
}

// watch shows the host's Views, and reconnects when the stream breaks off.
async function watch() {
  for (let lost = false; ; ) {
    try {
      for await (const { status, history, relay } of views()) {
        if (lost && (await updated())) location.reload();
        lost = false;
        problem("");
        $("token-form").hidden = true;
        showHistory(history);
        showStatus(status);
        // Even finding a direct path sends some kilobytes through the relay.
        $("relayed-row").hidden = !(relay?.bytes > 100e3);
        if (relay) set($("relayed"), bytes(relay.bytes));
      }
    } catch (err) {
      if (err.status === 401 && otherReading()) continue;
      if (err.status === 401) {
        showPhase("idle", "");
        problem(token() ? "The host does not take this token." : "");
        $("token-form").hidden = false;
        $("token").focus();
        $("token").select();
        return; // until another token is entered
      }
      lost = err instanceof TypeError; // how fetch reports that there is no answer
      if (!lost) problem(`Something is wrong: ${err.message}.`);
      else if (!ending) {
        problem("The host does not answer. If its run has ended, the results are where it was started.");
        showPhase("failed", "No answer");
      }
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

$("plain").hidden = !plain();
set($("join"), `ravnest-provider --join ${hostURL()}${token() ? " --token …" : ""}`);
if (location.hash) $("to-contribute").hash = $("lend").hash = location.hash;
$("token-form").addEventListener("submit", (ev) => {
  ev.preventDefault();
  hold($("token").value);
  watch();
});
watch();
