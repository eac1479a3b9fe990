// Instantiating the engine: its memory, the kernels' module on that, and the Go program on
// both. Used in a tab's worker and, for tests, in Node.

// simd and relaxed are modules with one instruction, valid if the browser knows it. fused is
// one with a function p(a, c) that computes a*a + c by relaxed_madd.
const header = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
const simd = [...header, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const relaxed = [...header, 10, 15, 1, 13, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253, 128, 2, 11];
const fused = [0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 125, 125, 1, 125, 3, 2, 1, 0, 7, 5, 1, 1, 112, 0, 0,
  10, 22, 1, 20, 0, 32, 0, 253, 19, 32, 0, 253, 19, 32, 1, 253, 19, 253, 133, 2, 253, 31, 0, 11];

export const has = {
  simd: () => WebAssembly.validate(new Uint8Array(simd)),
  relaxed: () => WebAssembly.validate(new Uint8Array(relaxed)),
  // A browser that knows the instruction may still round in between, silently.
  fused: () => has.relaxed() && new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(fused))).exports.p(1 + 2 ** -12, -(1 + 2 ** -11)) === 2 ** -24,
};

// stub holds the engine's imports if there are no vector instructions.
const stub = { level: () => 0 };
for (const name of ["gemm", "depthwise", "pointwise", "lanewise", "vec", "transpose", "evens", "zip", "mask", "maxPool", "maxPoolGrad"]) stub[name] = () => 0;

// kernels picks the fastest modules that this machine can run.
async function kernels(memory, compile, fuse, suffix) {
  if (!has.simd()) return { exports: stub };
  const instance = async (module) => (await WebAssembly.instantiate(module, { env: { memory } })).exports;
  const loops = compile(`loops${suffix}.wasm`).then(instance);
  let module = null;
  let product = null;
  if (fuse && has.relaxed()) {
    module = await compile(`fma${suffix}.wasm`);
    product = await instance(module);
    // On some machines the browser silently does not fuse.
    if (product.probe(1 + 2 ** -12, -(1 + 2 ** -11)) !== 2 ** -24) product = null;
  }
  if (!product) {
    module = await compile(`mul${suffix}.wasm`);
    product = await instance(module);
  }
  return { module, exports: { ...product, ...(await loops) } };
}

// helpers starts workers that share the memory and waits until they run.
function helpers(n, memory, module) {
  const ready = Array.from({ length: n }, () => {
    const worker = new Worker(new URL("kernelworker.js", import.meta.url), { type: "module", name: "kernels" });
    worker.postMessage({ memory, module });
    return new Promise((resolve, reject) => {
      worker.onmessage = () => resolve(worker);
      worker.onerror = (ev) => reject(new Error(`a kernel worker could not be started: ${ev.message}`));
    });
  });
  return Promise.all(ready);
}

// load instantiates the engine. compile(name) returns the module in a file; go is an instance
// of wasm_exec.js's Go; fuse: false behaves like a browser without fused multiply-add. More
// than one thread needs cross-origin isolation. run starts the program and returns when it
// ends.
export async function load({ go, compile, threads = 1, fuse = true }) {
  const shared = threads > 1 && globalThis.crossOriginIsolated === true;
  const suffix = shared ? "-shared" : "";
  const memory = new WebAssembly.Memory({ initial: pages, maximum: 65536, shared });
  const [program, kernel] = await Promise.all([compile(`ravnest${suffix}.wasm`), kernels(memory, compile, fuse, suffix)]);
  const workers = shared && kernel.module ? await helpers(threads - 1, memory, kernel.module) : [];
  const team = {
    run: kernel.exports.run ?? (() => {}),
    start: (ctl) => {
      workers.forEach((w, i) => w.postMessage({ ctl, worker: i + 1 }));
      return workers.length;
    },
  };
  const instance = await WebAssembly.instantiate(program, { ...go.importObject, env: { memory }, kernel: { ...kernel.exports, ...team } });
  return { memory, run: () => go.run(instance) };
}

// pages is the memory's initial size in pages of 64 KiB; the program may need fewer.
const pages = 1024;
