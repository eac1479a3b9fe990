// A worker that computes parts of products on the engine's shared memory. It receives the
// memory first and the control block later, and from then on never returns to its event loop.

const broken = 32 / 4; // index of the control block's word for a broken worker

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
    // Its current part will never be finished: the engine must not wait for it.
    Atomics.store(new Int32Array(memory.buffer, data.ctl), broken, 1);
    throw err;
  }
};
