// A tab as a provider, for pages: what this browser can do, and the life of the worker
// in which the engine runs. It has no look of its own.

import { has } from "./load.js";
import { Peers } from "./peers.js";

// support tells what this browser brings. problems are reasons why it cannot take part,
// in words for the person: {code, text, hint}.
export async function support() {
  const problems = [];
  const lacks = (code, text, hint) => problems.push({ code, text, hint });
  if (typeof WebAssembly !== "object") lacks("wasm", "this browser has no WebAssembly, which the engine is made of", "use a current Chromium, Firefox or Safari");
  else if (!has.simd()) lacks("simd", "this browser has no WebAssembly SIMD: training would take many times as long", "use a current Chromium, Firefox or Safari");
  if (typeof RTCPeerConnection !== "function") lacks("webrtc", "this browser has no WebRTC, over which providers talk to each other", "allow it in the browser's settings, or use another browser");
  if (typeof Worker !== "function") lacks("worker", "this browser has no workers to train in", "use a current Chromium, Firefox or Safari");
  return {
    problems,
    cores: navigator.hardwareConcurrency || 1,
    memory: (navigator.deviceMemory || 4) * 2 ** 30, // bytes, a rounded figure
    isolated: globalThis.crossOriginIsolated === true,
    battery: typeof navigator.getBattery === "function",
  };
}

// outdated asks whether the host still has this very build: caches keep what it no longer
// has, and an older engine may not give the same bits.
async function outdated() {
  try {
    const { ok } = await fetch(import.meta.url, { method: "HEAD", cache: "no-store" });
    return ok ? null : { code: "version", text: "this host has been updated since the page was loaded", hint: "reload the page" };
  } catch {
    return { code: "host", text: "the host does not answer", hint: "check the network, and that ravnest still runs there" };
  }
}

// goodbye is how long a worker that leaves at once may take before it is ended, in ms.
const goodbye = 1500;

// Tab is one tab's part in training. Its events, all CustomEvents:
//
//	state     {state, ...}: loading, resting (outside its hours), benchmarking, seeking (the host
//	          does not answer), waiting, fetching, connecting, training, paused, leaving, stopped; the last with code,
//	          text and hint, where code is "" if all is well; text may say why elsewhere too
//	progress  what the host is told four times a second, see provider.Update
//	joined    {name, gflops}
//	log       a line of text
export class Tab extends EventTarget {
  #worker = null;
  #peers = null;
  #state = "stopped";
  #paused = false;
  #options;

  // options.bridged is for tests: do as browsers that cannot transfer data channels.
  constructor(options = {}) {
    super();
    this.#options = options;
    addEventListener("pagehide", () => this.#command("leave"));
  }

  get state() {
    return this.#paused && this.#state === "training" ? "paused" : this.#state;
  }

  // start begins to take part. ram is in bytes; up and down are in Mbit/s, where 0 is no
  // limit; hours are like 22:00-07:00, where "" is the whole day.
  async start({ host = location.origin, token = "", name = "", threads = 1, ram = 2 ** 30, up = 0, down = 0, hours = "" } = {}) {
    if (this.#worker) throw new Error("this tab takes part already");
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
    if (this.#worker !== worker) return; // stopped meanwhile
    if (problem) this.#end(problem);
    else worker.postMessage({ start: { host, token, name, threads, ram, up, down, hours } });
  }

  // stop leaves. A tab that trains first has the host see that its part is saved, which takes
  // some seconds at the most; asked again, it goes at once.
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
    else if (m.log) this.#tell("log", m.log);
    else if (m.ended) this.#end(m.ended);
    else if (m.exited) this.#end({ code: "engine", text: "the engine has stopped", hint: "reload the page; the browser's console says why" });
  }

  // end takes everything down. The first reason counts.
  #end(why) {
    if (!this.#worker) return;
    this.#peers.close();
    this.#worker.terminate();
    this.#worker = this.#peers = null;
    this.#paused = false;
    this.#set("stopped", why);
  }
}
