// A worker that does parts of products on the engine's shared memory. It is told of the
// memory first and of the control block later, and from then on it never returns to its
// event loop.

const broken = 32 / 4; // index of the control block's word that says so

let memory;
let kernel;

onmessage = async ({ data }) => {
  if (data.module) {
    memory = data.memory;
    kernel = await WebAssembly.instantiate(data.module, { env: { memory } });
    postMessage("ready");
    return;
  }
  try {
    kernel.exports.serve(data.ctl, data.worker);
  } catch (err) {
    // What it had taken will never be done: the engine must not wait for it.
    Atomics.store(new Int32Array(memory.buffer, data.ctl), broken, 1);
    throw err;
  }
};
