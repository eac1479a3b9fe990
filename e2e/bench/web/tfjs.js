// The products and the convolution of BenchmarkGemm and BenchmarkConv in tfjs's
// WebAssembly backend, on one thread, printed as Go prints benchmarks.

import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";

tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
setWasmPaths("/");
await tf.setBackend("wasm");
await tf.ready();

// rate is the GFLOP/s of as many calls as a second holds, as Go's benchmarks count.
function rate(flops, f) {
  f().dispose();
  let calls = 0;
  let ms = 0;
  for (const begin = performance.now(); ms < 1000; ms = performance.now() - begin, calls++) f().dispose();
  return (flops * calls) / ms / 1e6;
}

for (const [m, k, n] of [[512, 512, 512], [1024, 1024, 1024], [64, 576, 3136]]) {
  const [a, b] = [tf.randomUniform([m, k]), tf.randomUniform([k, n])];
  console.log(`gemm/${m}x${k}x${n} ${rate(2 * m * k * n, () => tf.matMul(a, b))}`);
}
const x = tf.randomUniform([32, 56, 56, 64]);
const w = tf.randomUniform([3, 3, 64, 64]);
console.log(`conv/32x64x56x56 ${rate(2 * 32 * 56 * 56 * 64 * 64 * 9, () => tf.conv2d(x, w, 1, "same"))}`);
