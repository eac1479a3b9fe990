// The matrix product of engine/kernel/gemm.go for WebAssembly, with the same blocking and the
// same order of operations, on the engine's memory. As in Go, every element of C is one chain
// of multiply-adds over ascending k. FUSED says at compile time whether they are fused.
//
// Pointers are addresses in the engine's memory, strides are in floats. A job is written by
// gemm_js.go: int32 fields in the order of the constants below.

import { give, take } from "./lane";
export { depthwise } from "./conv_depth";
import { madd, tile, tileLanes, tilePoints, tileWindows } from "./z_tile";

const M = 0, N = 4, K = 8, A = 12, RS = 16, KS = 20, B = 24, BK = 28, BJ = 32, C = 36, LDC = 40, ACC = 44, ROWBIAS = 48, COLBIAS = 52, RELU = 56, SCRATCH = 60, ROWS = 64, COLS = 68;

const kBlock = 384, nBlock = 480, mr: i32 = 6, nr: i32 = 8;

// few is the number of rows up to which windows are read in place.
const few: i32 = 16;

// stripApart is the bytes between terms of A from which copying its rows pays.
const stripApart: i32 = 512;

// level is 1, or 2 with fused multiply-add: see gemm_js.go.
export function level(): i32 {
  return FUSED ? 2 : 1;
}

// probe is x*x+y. For x = 1+2^-12 and y = -(1+2^-11) it is 2^-24 if fused, else 0.
export function probe(x: f32, y: f32): f32 {
  return f32x4.extract_lane(madd(f32x4.splat(x), f32x4.splat(x), f32x4.splat(y)), 0);
}

// gemm computes a job.
export function gemm(job: usize): void {
  const m = load<i32>(job, M), n = load<i32>(job, N), k = load<i32>(job, K);
  const ars = load<i32>(job, RS) << 2, aks = load<i32>(job, KS) << 2;
  const b = <usize>load<u32>(job, B), bk = load<i32>(job, BK), bj = load<i32>(job, BJ);
  const ldc = load<i32>(job, LDC) << 2;
  const scratch = (<usize>load<u32>(job, SCRATCH) + 63) & ~63;
  const windows = load<u32>(job, ROWS) != 0;
  const parts = (k + kBlock - 1) / kBlock, kc = (k + parts - 1) / parts;
  for (let jc = 0; jc < n; jc += nBlock) {
    const nc = min(nBlock, n - jc);
    for (let pc = 0; pc < k; pc += kc) {
      const kn = min(kc, k - pc);
      const acc = load<i32>(job, ACC) | pc;
      const a = <usize>load<u32>(job, A) + pc * aks;
      const c = <usize>load<u32>(job, C) + (jc << 2);
      const block = b + ((pc * bk + jc * bj) << 2);
      const rows = <usize>load<u32>(job, ROWS) + (pc << 2), cols = <usize>load<u32>(job, COLS) + (jc << 2);
      if (m <= (windows ? few : mr)) {
        fewRows(m, nc, kn, a, ars, aks, windows, windows ? b : block, bk, bj, rows, cols, c, ldc, acc, scratch);
        continue;
      }
      if (windows) gather(scratch, b, rows, cols, kn, nc);
      else pack(scratch, block, bk, bj, kn, nc);
      const strips = scratch + ((kn * ((nc + 3) & ~3)) << 2), copied = ars == 4 && aks >= stripApart && nc > 4 * nr;
      for (let i = 0; i < m; i += mr) {
        const rows = min(mr, m - i);
        let strip = a + i * ars, step = aks;
        if (copied && rows == mr) {
          packStrip(strips, strip, aks, kn);
          strip = strips;
          step = 32;
        }
        for (let j = 0; j < nc; j += nr) {
          const left = min(nr, nc - j), vectors = (left + 3) >> 2;
          tile(rows, vectors, kn, strip, ars, step, scratch + ((j * kn) << 2), vectors << 4, c + i * ldc + (j << 2), ldc, acc, left - ((vectors - 1) << 2));
        }
      }
    }
    finish(job, jc, nc);
  }
}

// packStrip copies six rows of a transposed A into rows of 8, since terms that are far apart
// are each in a cache line, and often in a page, of their own.
function packStrip(dst: usize, src: usize, aks: i32, kn: i32): void {
  for (let k = 0; k < kn; k++) {
    v128.store(dst, v128.load(src));
    v128.store(dst, v128.load64_zero(src, 16), 16);
    dst += 32;
    src += aks;
  }
}

// fewRows computes a block of a product with too few rows for packing B to pay: panels whose
// columns are contiguous are read in place, the others are packed.
function fewRows(m: i32, nc: i32, kn: i32, a: usize, ars: i32, aks: i32, windows: bool, b: usize, bk: i32, bj: i32, rows: usize, cols: usize, c: usize, ldc: i32, acc: i32, scratch: usize): void {
  const most = m == 1 ? 8 : m <= 3 ? 4 : 2;
  for (let j = 0; j < nc; ) {
    let left = nc - j, vectors = most;
    const at = cols + (j << 2);
    if (left < most << 2 || (windows ? !contiguous(at, most << 2) : bj != 1)) vectors = 2;
    left = min(left, vectors << 2);
    const place = windows ? left == vectors << 2 && (vectors > 2 || contiguous(at, left)) : bj == 1 && (left & 3) == 0;
    let from = scratch, step = ((left + 3) & ~3) << 2;
    vectors = (left + 3) >> 2;
    if (windows && place) from = b + (load<i32>(at) << 2);
    else if (windows) gather(scratch, b, rows, at, kn, left);
    else if (place) (from = b + (j << 2)), (step = bk << 2);
    else pack(scratch, b + ((j * bj) << 2), bk, bj, kn, left);
    const last = left - ((vectors - 1) << 2), to = c + (j << 2);
    for (let i = 0; i < m; i += mr) {
      const r = min(mr, m - i);
      if (windows && place) tileWindows(r, vectors, kn, a + i * ars, ars, aks, from, rows, to + i * ldc, ldc, acc, last);
      else tile(r, vectors, kn, a + i * ars, ars, aks, from, step, to + i * ldc, ldc, acc, last);
    }
    j += left;
  }
}

// contiguous reports whether n offsets, a multiple of four, ascend by one.
function contiguous(p: usize, n: i32): bool {
  const first = load<i32>(p);
  for (let i = 0; i < n; i += 4) {
    if (!i32x4.all_true(i32x4.eq(v128.load(p + (i << 2)), i32x4.add(i32x4.splat(first + i), i32x4(0, 1, 2, 3))))) return false;
  }
  return true;
}

// pointwise is that of conv_lane_js.go: each row of 16 lanes of C is a sum of rows of A times
// a float of the windows.
export function pointwise(m: i32, rows: usize, k: i32, cols: usize, a: usize, b: usize, c: usize, acc: i32): void {
  for (let i = 0; i < m; ) {
    const n = tileRows(m - i), to = c + (i << 6), from = rows + (i << 2);
    tilePoints(n, 2, k, b, from, cols, a, 64, to, 64, acc, 4);
    tilePoints(n, 2, k, b, from, cols, a + 32, 64, to + 32, 64, acc, 4);
    i += n;
  }
}

// lanewise is pointwise with vectors of the windows.
export function lanewise(m: i32, rows: usize, rstep: i32, k: i32, cols: usize, cstep: i32, a: usize, b: usize, c: usize, acc: i32): void {
  for (let i = 0; i < m; ) {
    const n = tileRows(m - i), to = c + (i << 6), from = rows + i * rstep;
    tileLanes(n, 2, k, b, from, rstep, cols, cstep, a, 64, to, 64, acc, 4);
    tileLanes(n, 2, k, b + 32, from, rstep, cols, cstep, a + 32, 64, to + 32, 64, acc, 4);
    i += n;
  }
}

// tileRows is the largest number of rows up to left that there is a tile for.
function tileRows(left: i32): i32 {
  return left >= 6 ? 6 : left >= 3 ? 3 : 1;
}

// pack copies kn rows and nc columns of B into panels of 8 columns. The last panel has as
// many vectors as it needs; lanes beyond the last column are undefined.
function pack(dst: usize, src: usize, bk: i32, bj: i32, kn: i32, nc: i32): void {
  const row = bk << 2, col = bj << 2;
  for (let j = 0; j < nc; j += nr) {
    const cols = min(nr, nc - j), wide = (cols + 3) & ~3;
    let from = src + j * col;
    if (bj == 1 && cols == nr) {
      for (let k = 0; k < kn; k++) {
        v128.store(dst, v128.load(from));
        v128.store(dst, v128.load(from, 16), 16);
        from += row;
        dst += 32;
      }
    } else if (bk == 1 && cols == nr) {
      dst = packTransposed(dst, from, col, kn);
    } else {
      for (let k = 0; k < kn; k++) {
        let x = from;
        for (let i = 0; i < cols; i++) {
          store<f32>(dst + (i << 2), load<f32>(x));
          x += col;
        }
        from += row;
        dst += wide << 2;
      }
    }
  }
}

// gather packs the windows of a convolution: element (k,j) is at rows[k]+cols[j].
function gather(dst: usize, src: usize, rows: usize, cols: usize, kn: i32, nc: i32): void {
  for (let j = 0; j < nc; j += nr) {
    const n = min(nr, nc - j), wide = (n + 3) & ~3, c = cols + (j << 2);
    if (n == nr && contiguous(c, nr)) {
      const from = src + (load<i32>(c) << 2);
      for (let k = 0; k < kn; k++) {
        const p = from + (load<i32>(rows + (k << 2)) << 2);
        v128.store(dst, v128.load(p));
        v128.store(dst, v128.load(p, 16), 16);
        dst += 32;
      }
      continue;
    }
    for (let k = 0; k < kn; ) {
      const row = rows + (k << 2), from = src + (load<i32>(row) << 2);
      if (n == nr && k + 4 <= kn && contiguous(row, 4)) {
        quad(dst, from, c);
        quad(dst + 16, from, c + 16);
        dst += 128;
        k += 4;
        continue;
      }
      for (let i = 0; i < n; i++) store<f32>(dst + (i << 2), load<f32>(from + (load<i32>(c + (i << 2)) << 2)));
      dst += wide << 2;
      k++;
    }
  }
}

// quad packs four columns of four adjacent rows.
// @ts-ignore: decorator
@inline
function quad(dst: usize, src: usize, cols: usize): void {
  cross(dst, v128.load(src + (load<i32>(cols) << 2)), v128.load(src + (load<i32>(cols, 4) << 2)), v128.load(src + (load<i32>(cols, 8) << 2)), v128.load(src + (load<i32>(cols, 12) << 2)));
}

// cross stores the transpose of four vectors in rows of 8.
// @ts-ignore: decorator
@inline
function cross(dst: usize, a: v128, b: v128, c: v128, d: v128): void {
  const ab = i32x4.shuffle(a, b, 0, 4, 1, 5), cd = i32x4.shuffle(c, d, 0, 4, 1, 5);
  const AB = i32x4.shuffle(a, b, 2, 6, 3, 7), CD = i32x4.shuffle(c, d, 2, 6, 3, 7);
  v128.store(dst, i64x2.shuffle(ab, cd, 0, 2));
  v128.store(dst, i64x2.shuffle(ab, cd, 1, 3), 32);
  v128.store(dst, i64x2.shuffle(AB, CD, 0, 2), 64);
  v128.store(dst, i64x2.shuffle(AB, CD, 1, 3), 96);
}

// packTransposed packs a panel of 8 columns that are contiguous in k, in blocks of 4x4.
function packTransposed(dst: usize, src: usize, col: i32, kn: i32): usize {
  let k = 0;
  for (; k + 4 <= kn; k += 4) {
    for (let h = 0; h < 2; h++) {
      const p = src + h * 4 * col;
      cross(dst + h * 16, v128.load(p), v128.load(p + col), v128.load(p + 2 * col), v128.load(p + 3 * col));
    }
    src += 16;
    dst += 128;
  }
  for (; k < kn; k++) {
    for (let i = 0; i < nr; i++) store<f32>(dst + (i << 2), load<f32>(src + i * col));
    src += 4;
    dst += 32;
  }
  return dst;
}

// finish adds the biases and applies ReLU to nc columns from jc on.
function finish(job: usize, jc: i32, nc: i32): void {
  const rows = <usize>load<u32>(job, ROWBIAS), cols = <usize>load<u32>(job, COLBIAS), relu = load<i32>(job, RELU);
  if (!rows && !cols && !relu) return;
  const m = load<i32>(job, M), ldc = load<i32>(job, LDC) << 2, zero = f32x4.splat(0);
  let c = <usize>load<u32>(job, C) + (jc << 2);
  for (let i = 0; i < m; i++) {
    const bias = rows ? v128.load32_splat(rows + (i << 2)) : zero;
    for (let j = 0; j < nc; j += 4) {
      const lanes = min(4, nc - j), p = c + (j << 2);
      let v = take(p, lanes);
      if (rows) v = f32x4.add(v, bias);
      if (cols) v = f32x4.add(v, take(cols + ((jc + j) << 2), lanes));
      if (relu) v = v128.andnot(v, f32x4.lt(v, zero)); // NaN and -0 stay
      give(p, v, lanes);
    }
    c += ldc;
  }
}
