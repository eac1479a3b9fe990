// What is measured, for all libraries alike. conv: images, channels, side, filters, window,
// stride, padding, groups; gemm: M, K, N and whether A and B are transposed; what is
// elementwise or goes by rows: rows, columns; pool: planes, side, window, stride,
// padding.

const products = [[256, 256, 256], [512, 512, 512], [1024, 1024, 1024], [2048, 2048, 2048], [64, 576, 3136], [128, 1152, 784], [512, 512, 64], [64, 256, 10]];

// The layers of ResNet-50 at 224x224, the walkthrough's, and some with groups.
function convolutions() {
  const all = [[8, 3, 224, 64, 7, 2, 3, 1]];
  let from = 64;
  for (const [i, width] of [64, 128, 256, 512].entries()) {
    const side = 56 >> i;
    const [before, stride] = i ? [2 * side, 2] : [side, 1];
    all.push([8, from, before, width, 1, 1, 0, 1]);
    all.push([8, width, before, width, 3, stride, 1, 1]);
    all.push([8, width, side, 4 * width, 1, 1, 0, 1]);
    if (i) all.push([8, from, before, 4 * width, 1, stride, 0, 1]);
    all.push([8, 4 * width, side, width, 1, 1, 0, 1]);
    if (i) all.push([8, width, side, width, 3, 1, 1, 1]);
    from = 4 * width;
  }
  return [...all, [64, 1, 8, 16, 3, 1, 1, 1], [64, 16, 2, 32, 3, 1, 1, 1], [8, 256, 28, 256, 3, 1, 1, 32], [8, 128, 28, 128, 3, 1, 1, 128], [8, 128, 28, 128, 3, 2, 1, 128]];
}

const out = ([, , side, , window, stride, pad]) => Math.floor((side + 2 * pad - window) / stride) + 1;

// work is the floating-point operations of a case, 0 where bytes matter.
function work(kind, a) {
  if (kind === "gemm") return 2 * a[0] * a[1] * a[2];
  const [n, c, , o, k, , , groups] = a;
  return 2 * n * o * out(a) ** 2 * (c / groups) * k * k;
}

function gemm([m, k, n], ta, tb) {
  return { kind: "gemm", name: `gemm ${m}x${k}x${n}${ta ? " A^T" : ""}${tb ? " B^T" : ""}`, args: [m, k, n, ta, tb], flops: work("gemm", [m, k, n]) };
}

function conv(kind, a) {
  const [n, c, side, o, k, stride, , groups] = a;
  const name = `${kind} ${n}x${c}x${side}x${side} ${o} of ${k}x${k}${stride > 1 ? ` by ${stride}` : ""}${groups > 1 ? ` in ${groups}` : ""}`;
  return { kind, name, args: a, flops: work(kind, a) };
}

// calls is how often a case is done at once, for who pays for being called.
export const calls = (c) => Math.max(1, Math.min(16, Math.ceil(1e8 / (c.flops || 3e7))));

const layers = convolutions();
const loop = (kind, rows, cols) => ({ kind, name: `${kind} ${rows}x${cols}`, args: [rows, cols], flops: 0 });

export const cases = [
  ...products.map((p) => gemm(p, 0, 0)),
  ...products.slice(0, 3).flatMap((p) => [gemm(p, 1, 0), gemm(p, 0, 1)]),
  ...layers.map((a) => conv("forward", a)),
  ...layers.map((a) => conv("data", a)),
  ...layers.map((a) => conv("weights", a)),
  ...["add", "relu", "sigmoid", "tanh", "gelu", "softmax", "layernorm"].map((kind) => loop(kind, 1024, 1024)),
  { kind: "maxpool", name: "maxpool 512x56x56 2x2", args: [512, 56, 2, 2, 0], flops: 0 },
  { kind: "maxpool", name: "maxpool 512x112x112 3x3 by 2, padded", args: [512, 112, 3, 2, 1], flops: 0 },
  { kind: "step", name: "the walkthrough's step of 64", args: [64], flops: 0 },
];
