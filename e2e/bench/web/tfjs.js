// tfjs's WebAssembly backend on one thread. Its images have channels last.

import "@tensorflow/tfjs-backend-cpu";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";

tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
setWasmPaths("/");
await tf.setBackend("wasm");
await tf.ready();

// call gives the operation of a case, null where the backend has none: it has no gradient
// of a convolution's filters, and with it no training of images; no data's gradient of
// groups; and what it puts together from several operations is not one of its own.
function call({ kind, args }) {
  const random = (...shape) => tf.randomUniform(shape, -0.5, 0.5);
  switch (kind) {
    case "gemm": {
      const [m, k, n, ta, tb] = args;
      const [a, b] = [ta ? random(k, m) : random(m, k), tb ? random(n, k) : random(k, n)];
      return () => tf.matMul(a, b, !!ta, !!tb);
    }
    case "forward": {
      const [n, c, h, o, k, s, p, groups] = args;
      const x = random(n, h, h, c);
      if (groups === c && o === c && c > 1) {
        const w = random(k, k, c, 1);
        return () => tf.depthwiseConv2d(x, w, s, p);
      }
      if (groups > 1) return null;
      const w = random(k, k, c, o);
      return () => tf.conv2d(x, w, s, p);
    }
    case "data": {
      const [n, c, h, o, k, s, p, groups] = args;
      if (groups > 1) return null;
      const y = Math.floor((h + 2 * p - k) / s) + 1;
      const [dy, w] = [random(n, y, y, o), random(k, k, c, o)];
      return () => tf.conv2dTranspose(dy, w, [n, h, h, c], s, p);
    }
    case "maxpool": {
      const [planes, h, k, s, p] = args;
      const x = random(1, h, h, planes);
      return () => tf.maxPool(x, k, s, p);
    }
    case "add": {
      const [x, y] = [random(...args), random(...args)];
      return () => tf.add(x, y);
    }
    case "relu": case "sigmoid": case "tanh": case "softmax": {
      const x = random(...args);
      return () => tf[kind](x);
    }
  }
  return null;
}

// make prepares a case.
export async function make(c) {
  tf.engine().startScope();
  const f = call(c);
  const end = () => tf.engine().endScope();
  if (!f) {
    end();
    return null;
  }
  return { calls: 1, run: () => f().dispose(), end };
}
