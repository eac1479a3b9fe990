// Instantiating the engine: its memory, the kernels' module on it, the Go program on
// both. The same in a tab's worker and, for tests, in Node.

// simd and relaxed are modules of one instruction, valid where the browser knows it.
const header = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
const simd = [...header, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const relaxed = [...header, 10, 15, 1, 13, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253, 128, 2, 11];

export const has = {
  simd: () => WebAssembly.validate(new Uint8Array(simd)),
  relaxed: () => WebAssembly.validate(new Uint8Array(relaxed)),
};

// kernels are the engine's imports: those of the fastest modules that this machine can
// run, or of none.
async function kernels(memory, compile, fuse) {
  const instance = async (name) => (await WebAssembly.instantiate(await compile(name), { env: { memory } })).exports;
  if (!has.simd()) return { level: () => 0, gemm: () => {}, vec: () => {} };
  const vec = instance("vec.wasm");
  if (fuse && has.relaxed()) {
    const fma = await instance("fma.wasm");
    // A browser without the instruction fuses nothing and does not say so.
    if (fma.probe(1 + 2 ** -12, -(1 + 2 ** -11)) === 2 ** -24) return { ...fma, ...(await vec) };
  }
  return { ...(await instance("mul.wasm")), ...(await vec) };
}

// load instantiates the engine. compile(name) gives the module of a file; go is an
// instance of wasm_exec.js's Go; fuse: false is a browser without fused multiply-add.
// run starts the program and ends when it does.
export async function load({ go, compile, fuse = true }) {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: 65536 });
  const [program, kernel] = await Promise.all([compile("ravnest.wasm"), kernels(memory, compile, fuse)]);
  const instance = await WebAssembly.instantiate(program, { ...go.importObject, env: { memory }, kernel });
  return { memory, run: () => go.run(instance) };
}

// pages that the memory begins with, of 64 KiB; the program may want fewer.
const pages = 512;
