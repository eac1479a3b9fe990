// onnxruntime-web's WebAssembly backend on one thread. Its models are made here: one node
// for each call that is to be measured, all operands constant, and a single element of each
// result as output, so that nothing is copied in or out. Optimisations are off, since they
// would do the work once and for all; they have nothing to add to a single operation.

import * as ort from "onnxruntime-web/wasm";
import { calls } from "./cases.js";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = "/";
ort.env.logLevel = "error";

// Protocol buffers, as far as a model needs them.
const text = new TextEncoder();
function varint(n) {
  const b = [];
  for (; n > 127; n = Math.floor(n / 128)) b.push((n % 128) | 128);
  return Uint8Array.from([...b, n]);
}
function join(parts) {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return all;
}
const number = (field, n) => join([varint(field * 8), varint(n)]);
const bytes = (field, b) => join([varint(field * 8 + 2), varint(b.length), b]);
const string = (field, s) => bytes(field, text.encode(s));
const message = (field, ...parts) => bytes(field, join(parts));

const [float, int64] = [1, 7]; // TensorProto.DataType
function tensor(name, dims, type, data) {
  return message(5, ...dims.map((d) => number(1, d)), number(2, type), string(8, name), bytes(9, new Uint8Array(data.buffer)));
}
const floats = (name, dims) => tensor(name, dims, float, Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => Math.random() - 0.5));
const ints = (name, values) => tensor(name, [values.length], int64, BigInt64Array.from(values, BigInt));
function attribute(name, value) {
  if (Array.isArray(value)) return message(5, string(1, name), ...value.map((v) => number(8, v)), number(20, 7));
  return message(5, string(1, name), number(3, value), number(20, 2));
}
function node(op, inputs, output, attributes = {}) {
  return message(1, ...inputs.map((i) => string(1, i)), string(2, output), string(4, op), ...Object.entries(attributes).map(([k, v]) => attribute(k, v)));
}

// describe gives the operation of a case: its name, the shapes of its operands, and the
// rank of its result.
function describe({ kind, args }) {
  const side = ([n, c, h, o, k, s, p, g]) => Math.floor((h + 2 * p - k) / s) + 1;
  switch (kind) {
    case "gemm": {
      const [m, k, n, transA, transB] = args;
      return { op: "Gemm", shapes: [transA ? [k, m] : [m, k], transB ? [n, k] : [k, n]], rank: 2, attributes: { transA, transB } };
    }
    case "forward": {
      const [n, c, h, o, k, s, p, group] = args;
      return { op: "Conv", shapes: [[n, c, h, h], [o, c / group, k, k]], rank: 4, attributes: { strides: [s, s], pads: [p, p, p, p], group } };
    }
    case "data": {
      const [n, c, h, o, k, s, p, group] = args;
      const y = side(args);
      const rest = h + 2 * p - k - (y - 1) * s;
      return { op: "ConvTranspose", shapes: [[n, o, y, y], [o, c / group, k, k]], rank: 4, attributes: { strides: [s, s], pads: [p, p, p, p], output_padding: [rest, rest], group } };
    }
    case "maxpool": {
      const [planes, h, k, s, p] = args;
      return { op: "MaxPool", shapes: [[1, planes, h, h]], rank: 4, attributes: { kernel_shape: [k, k], strides: [s, s], pads: [p, p, p, p] } };
    }
    case "add":
      return { op: "Add", shapes: [args, args], rank: 2 };
    case "layernorm":
      return { op: "LayerNormalization", shapes: [args, [args[1]], [args[1]]], rank: 2 };
    case "relu": case "sigmoid": case "tanh": case "gelu": case "softmax":
      return { op: kind[0].toUpperCase() + kind.slice(1), shapes: [args], rank: 2 };
  }
  return null; // no gradients of weights, and no training
}

// make prepares a case: calls is how often run does it, null that it cannot be done.
export async function make(c) {
  const d = describe(c);
  if (!d) return null;
  const graph = d.shapes.map((dims, i) => floats(`x${i}`, dims));
  const operands = d.shapes.map((_, i) => `x${i}`);
  graph.push(ints("first", Array(d.rank).fill(0)), ints("last", Array(d.rank).fill(1)));
  const parts = [];
  for (let i = 0; i < calls(c); i++) {
    graph.push(node(d.op, operands, `y${i}`, d.attributes), node("Slice", [`y${i}`, "first", "last"], `s${i}`));
    parts.push(`s${i}`);
  }
  graph.push(node("Sum", parts, "out"), message(12, string(1, "out"), message(2, message(1, number(1, float)))));
  const model = join([number(1, 10), message(8, number(2, 20)), message(7, string(2, "bench"), ...graph)]);
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" });
  return { calls: calls(c), run: () => session.run({}), end: () => session.release() };
}
