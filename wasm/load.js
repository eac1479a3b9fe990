// Loading the engine into a worker.

import "./wasm_exec.js";

// load fetches and compiles the engine. run starts it and ends when it does.
export async function load() {
  const go = new Go();
  const url = new URL("ravnest.wasm", import.meta.url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
  const { instance } = await WebAssembly.instantiateStreaming(response, go.importObject);
  return { memory: instance.exports.mem, run: () => go.run(instance) };
}
