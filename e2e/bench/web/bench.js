// All libraries in one worker, on one thread, by turns: a line of JSON for each case, with
// milliseconds a call. "two" is ours with a second worker.

import { calls, cases } from "./cases.js";
import * as ort from "./ort.js";
import * as tfjs from "./tfjs.js";

const { only = "", rounds = 7, ms = 40 } = options; // browse sets them

// engine starts an engine of ours, as load.js does in a tab.
async function engine(threads) {
  const { load } = await import("/load.js");
  const go = new Go();
  const compile = (name) => WebAssembly.compileStreaming(fetch("/" + name));
  (await load({ go, compile, threads })).run();
  const { setup, run, drop } = globalThis.ravnest;
  return {
    make: async (c) => {
      setup(c.kind, c.args);
      return { calls: calls(c), run: () => run(calls(c)), end: drop };
    },
  };
}

// measure is the milliseconds of a call: as many of them as fit, one at least.
async function measure(p) {
  const begin = performance.now();
  let calls = 0;
  let passed = 0;
  do {
    await p.run();
    calls += p.calls;
    passed = performance.now() - begin;
  } while (passed < ms);
  return passed / calls;
}

const median = (v) => v.toSorted((a, b) => a - b)[v.length >> 1];

await import("/shared.js");
await import("/wasm_exec.js");
const libraries = { tfjs, ort, ours: await engine(1), two: await engine(2) };
for (const c of cases.filter((c) => c.name.match(only))) {
  const [prepared, times] = [{}, {}];
  for (const [name, library] of Object.entries(libraries)) {
    const p = await library.make(c);
    if (!p) continue;
    prepared[name] = p;
    times[name] = [];
    // Browsers compile for good what has run for a while.
    for (const begin = performance.now(); performance.now() - begin < 100; ) await p.run();
  }
  for (let round = 0; round < rounds; round++) for (const [name, p] of Object.entries(prepared)) times[name].push(await measure(p));
  for (const p of Object.values(prepared)) await p.end();
  console.log(JSON.stringify({ name: c.name, flops: c.flops, ...Object.fromEntries(Object.entries(times).map(([k, v]) => [k, median(v)])) }));
}
