// The shell of the tab's worker: it loads the engine, provides the object ravnest (see
// main.go, turns.go and rtc/endpoint_js.go) and carries messages between it and tab.js.

import { Bridge } from "./bridge.js";
import { identity } from "./identity.js";
import { load } from "./load.js";
import "./shared.js";
import "./wasm_exec.js";

const channel = new MessageChannel();
let engine;
let me = { key: "" };

// asleep is a gap in ms between ticks of one second that means the machine was asleep. (A
// worker's timers keep running in a hidden tab, where a page's may fire once a minute.)
const asleep = 10_000;
let last = Date.now();

function tick() {
  const gap = Date.now() - last;
  last = Date.now();
  if (gap > asleep) postMessage({ log: "this machine was asleep: looking for the host again" });
}

setInterval(tick, 1000);

const compile = async (name) => {
  const url = new URL(name, import.meta.url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
  return WebAssembly.compileStreaming(response);
};

globalThis.ravnest = {
  settings: "",
  command: null, // set by the engine: takes stop, leave (at once), pause, resume
  emit: (kind, json) => {
    tick(); // report that the machine was asleep before that the host is lost
    postMessage({ [kind]: JSON.parse(json) });
  },
  // current reports whether the host still has this build; true if it does not answer.
  current: (tell) => {
    const url = import.meta.url;
    fetch(url, { method: "HEAD", cache: "no-store" }).then(({ ok, status }) => tell(ok || status === 429 || status >= 500), () => tell(true));
  },
  // sign tells the signature of our key as a Uint8Array; nothing where there is none.
  sign: (message, tell) => {
    Promise.resolve(me.sign?.(message)).then((signature) => tell(signature && new Uint8Array(signature)), () => tell());
  },
  memory: () => engine.memory.buffer.byteLength,
  // turns returns a function that calls done once the waiting events have been handled.
  turns: (done) => {
    channel.port1.onmessage = done;
    return () => channel.port2.postMessage(null);
  },
  peers: { handler: null, post: (m) => postMessage({ rtc: m }) },
};

onmessage = async ({ data }) => {
  if (data.rtc) {
    const m = data.rtc;
    ravnest.peers.handler?.(m.op === "bridge" ? { op: "channel", id: m.id, channel: new Bridge(m.port) } : m);
  } else if (data.command) {
    if (ravnest.command) ravnest.command(data.command);
    else if (data.command === "stop" || data.command === "leave") postMessage({ ended: { code: "", text: "stopped" } });
  } else if (data.start) {
    try {
      me = await identity();
      postMessage({ identity: { key: me.key, why: me.why ?? "" } });
      ravnest.settings = JSON.stringify({ ...data.start, key: me.key });
      engine = await load({ go: new Go(), compile, threads: data.start.threads });
      await engine.run();
      postMessage({ exited: true });
    } catch (err) {
      const memory = err instanceof RangeError;
      postMessage({
        ended: {
          code: memory ? "memory" : "engine",
          text: `the engine cannot run: ${err.message}`,
          hint: memory ? "close other tabs, or allow this one less memory" : "reload the page",
        },
      });
    }
  }
};
