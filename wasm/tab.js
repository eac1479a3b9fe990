// A tab as a provider: what this browser supports, and the worker in which the engine runs.
// The page provides the user interface.

import { has } from "./load.js";
import { Peers } from "./peers.js";

// support returns what this browser supports. problems are reasons why it cannot take part,
// as texts for the user: {code, text, hint}. lacks are texts about what it does without.
export async function support() {
  const problems = [];
  const lacks = (code, text, hint) => problems.push({ code, text, hint });
  if (typeof WebAssembly !== "object") lacks("wasm", "this browser has no WebAssembly, which the engine needs", "use a current Chromium, Firefox or Safari");
  else if (!has.simd()) lacks("simd", "this browser has no WebAssembly SIMD, without which training is many times slower", "use a current Chromium, Firefox or Safari");
  if (typeof RTCPeerConnection !== "function") lacks("webrtc", "this browser has no WebRTC, which providers need to connect to each other", "allow it in the browser's settings, or use another browser");
  if (typeof Worker !== "function") lacks("worker", "this browser has no workers to train in", "use a current Chromium, Firefox or Safari");
  return {
    problems,
    lacks: problems.length ? [] : lacking(),
    cores: navigator.hardwareConcurrency || 1,
    memory: (navigator.deviceMemory || 4) * 2 ** 30, // bytes, rounded by the browser
    isolated: globalThis.crossOriginIsolated === true,
    battery: typeof navigator.getBattery === "function",
  };
}

function lacking() {
  const lacks = [];
  if (!has.fused()) lacks.push("fused multiply-add in WebAssembly (relaxed SIMD): it computes more slowly, and in float32 only together with others that have none either");
  if (!navigator.deviceMemory) lacks.push("a way to tell how much memory this device has: 4 GB are assumed");
  if (typeof navigator.getBattery !== "function") lacks.push("a way to tell that this device runs on battery: stop it yourself then");
  return lacks;
}

// outdated checks whether the host still has this build: caches may keep an older one, whose
// engine may not give the same bits.
async function outdated() {
  try {
    const { ok, status } = await fetch(import.meta.url, { method: "HEAD", cache: "no-store" });
    return ok || status === 429 ? null : { code: "version", text: "this host has been updated since the page was loaded", hint: "reload the page" };
  } catch {
    return { code: "host", text: "the host does not answer", hint: "check the network, and that ravnest still runs there" };
  }
}

// goodbye is how long in ms a worker may take to leave at once before it is terminated.
const goodbye = 1500;

// Tab is one tab's part in training. Its events, all CustomEvents:
//
//	state     {state, ...}: loading, resting (outside its hours), benchmarking, seeking (the host
//	          does not answer), waiting, fetching, connecting, training, paused, leaving, stopped; the last with code,
//	          text and hint, where code is "" if all is well; text may say why elsewhere too
//	progress  the report sent to the host four times a second, see provider.Update
//	joined    {name, gflops}
//	identity  {key, why}: the key by which the host knows this browser, or why it has none
//	pass      a token of this tab's own, to be used in place of the one it had
//	log       a line of text
export class Tab extends EventTarget {
  #worker = null;
  #peers = null;
  #state = "stopped";
  #paused = false;
  #options;

  // options.bridged is for tests: behave like a browser that cannot transfer data channels.
  constructor(options = {}) {
    super();
    this.#options = options;
    addEventListener("pagehide", () => this.#command("leave"));
  }

  get state() {
    return this.#paused && this.#state === "training" ? "paused" : this.#state;
  }

  // start makes the tab take part. ram is in bytes; up and down are in Mbit/s, 0 for no limit;
  // hours are such as 22:00-07:00, "" for the whole day.
  async start({ host = location.origin, token = "", name = "", threads = 1, ram = 2 ** 30, up = 0, down = 0, hours = "" } = {}) {
    if (this.#worker) throw new Error("this tab is already taking part");
    this.#set("loading");
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module", name: "ravnest" });
    this.#worker = worker;
    this.#peers = new Peers(worker, this.#options);
    worker.onmessage = ({ data }) => this.#take(data);
    worker.onerror = (ev) => {
      ev.preventDefault();
      this.#end({ code: "engine", text: `the engine has stopped: ${ev.message || "its files could not be loaded"}`, hint: "reload the page" });
    };
    const problem = await outdated();
    if (this.#worker !== worker) return; // stopped in the meantime
    if (problem) this.#end(problem);
    else worker.postMessage({ start: { host, token, name, threads, ram, up, down, hours } });
  }

  // stop makes the tab leave. If it is training, the host first has its part saved, which takes
  // at most some seconds; called again, stop leaves at once.
  stop() {
    if (!this.#worker) return;
    const worker = this.#worker;
    const polite = this.#state === "training";
    this.#paused = false;
    this.#command(polite ? "stop" : "leave");
    if (polite) this.#set("leaving");
    else setTimeout(() => this.#worker === worker && this.#end({ code: "", text: "stopped" }), goodbye);
  }

  // pause holds the kernels; the tab stays a member and the others wait for it.
  pause() {
    this.#hold(true);
  }

  resume() {
    this.#hold(false);
  }

  #hold(paused) {
    if (!this.#worker || paused === this.#paused) return;
    this.#paused = paused;
    this.#command(paused ? "pause" : "resume");
    this.#tell("state", { state: this.state });
  }

  #command(command) {
    this.#worker?.postMessage({ command });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #set(state, more = {}) {
    const before = this.state;
    this.#state = state;
    if (this.state !== before) this.#tell("state", { state: this.state, ...more });
  }

  #take(m) {
    if (m.rtc) this.#peers.take(m.rtc);
    else if (m.state) this.#set(m.state);
    else if (m.update) {
      if (this.#state !== "leaving") this.#set(m.update.state, m.update);
      if (m.update.state === "training" && m.update.progress.run) this.#tell("progress", m.update);
    } else if (m.joined) this.#tell("joined", m.joined);
    else if (m.identity) this.#tell("identity", m.identity);
    else if (m.pass) this.#tell("pass", m.pass);
    else if (m.log) this.#tell("log", m.log);
    else if (m.ended) this.#end(m.ended);
    else if (m.exited) this.#end({ code: "engine", text: "the engine has stopped", hint: "reload the page; the browser's console says why" });
  }

  // end shuts everything down. The first reason counts.
  #end(why) {
    if (!this.#worker) return;
    this.#peers.close();
    this.#worker.terminate();
    this.#worker = this.#peers = null;
    this.#paused = false;
    this.#set("stopped", why);
  }
}
