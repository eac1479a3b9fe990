// The matrix product of engine/kernel/gemm.go for WebAssembly: the same blocking, the same
// order of operations, in place on the engine's memory. Like its Go twin, every element
// of C is one chain of multiply-adds over ascending k; MADD is fused or not, by the build.
//
// Pointers are addresses in the engine's memory, strides are in floats. A job is what
// gemm_js.go writes: int32 fields in the order of the constants below.

import { give, take } from "./lane";

const M = 0, N = 4, K = 8, A = 12, RS = 16, KS = 20, B = 24, BK = 28, BJ = 32, C = 36, LDC = 40, ACC = 44, ROWBIAS = 48, COLBIAS = 52, RELU = 56, SCRATCH = 60, ROWS = 64, COLS = 68;

const kBlock = 384, nBlock = 480, mr: i32 = 6, nr: i32 = 8;

// @ts-ignore: decorator
@inline
function madd(a: v128, b: v128, c: v128): v128 {
  if (FUSED) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, b));
}

// level is what kernel.level tells the engine.
export function level(): i32 {
  return FUSED ? 2 : 1;
}

// probe is x*x+y: with x = 1+2^-12 and y = -(1+2^-11) it is 2^-24 where that is fused.
export function probe(x: f32, y: f32): f32 {
  return f32x4.extract_lane(madd(f32x4.splat(x), f32x4.splat(x), f32x4.splat(y)), 0);
}

// gemm runs a job.
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
    // A block of B that is used once, in whole vectors, is read where it lies.
    const direct = !windows && bj == 1 && m <= mr && (nc & 3) == 0;
    for (let pc = 0; pc < k; pc += kc) {
      const kn = min(kc, k - pc);
      const acc = load<i32>(job, ACC) | pc;
      const block = b + ((pc * bk + jc * bj) << 2);
      if (windows) gather(scratch, b, <usize>load<u32>(job, ROWS) + (pc << 2), <usize>load<u32>(job, COLS) + (jc << 2), kn, nc);
      else if (!direct) pack(scratch, block, bk, bj, kn, nc);
      for (let i = 0; i < m; i += mr) {
        const rows = min(mr, m - i);
        const a = <usize>load<u32>(job, A) + i * ars + pc * aks;
        const c = <usize>load<u32>(job, C) + i * ldc + (jc << 2);
        for (let j = 0; j < nc; j += nr) {
          const cols = min(nr, nc - j), wide = (cols + 3) & ~3;
          const panel = direct ? block + (j << 2) : scratch + ((j * kn) << 2);
          tile(rows, cols, kn, a, ars, aks, panel, direct ? bk << 2 : wide << 2, c + (j << 2), ldc, acc);
        }
      }
    }
    finish(job, jc, nc);
  }
}

// pack copies kn rows and nc columns of B into panels of 8 columns, the last of as many
// vectors as it needs, filled up with anything.
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
      dst = turn(dst, from, col, kn);
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

// gather packs a convolution's windows: element (k,j) is at rows[k]+cols[j].
function gather(dst: usize, src: usize, rows: usize, cols: usize, kn: i32, nc: i32): void {
  for (let j = 0; j < nc; j += nr) {
    const n = min(nr, nc - j), wide = (n + 3) & ~3, c = cols + (j << 2);
    let near = n == nr;
    for (let i = 1; i < n; i++) near = near && load<i32>(c + (i << 2)) - load<i32>(c) == i;
    for (let k = 0; k < kn; k++) {
      const from = src + (load<i32>(rows + (k << 2)) << 2);
      if (near) {
        const p = from + (load<i32>(c) << 2);
        v128.store(dst, v128.load(p));
        v128.store(dst, v128.load(p, 16), 16);
      } else {
        for (let i = 0; i < n; i++) store<f32>(dst + (i << 2), load<f32>(from + (load<i32>(c + (i << 2)) << 2)));
      }
      dst += wide << 2;
    }
  }
}

// turn packs a panel of 8 columns that are contiguous in k, four by four.
function turn(dst: usize, src: usize, col: i32, kn: i32): usize {
  let k = 0;
  for (; k + 4 <= kn; k += 4) {
    for (let h = 0; h < 2; h++) {
      const p = src + h * 4 * col;
      const a = v128.load(p), b = v128.load(p + col), c = v128.load(p + 2 * col), d = v128.load(p + 3 * col);
      const ab = i32x4.shuffle(a, b, 0, 4, 1, 5), cd = i32x4.shuffle(c, d, 0, 4, 1, 5);
      const AB = i32x4.shuffle(a, b, 2, 6, 3, 7), CD = i32x4.shuffle(c, d, 2, 6, 3, 7);
      const to = dst + h * 16;
      v128.store(to, i64x2.shuffle(ab, cd, 0, 2));
      v128.store(to, i64x2.shuffle(ab, cd, 1, 3), 32);
      v128.store(to, i64x2.shuffle(AB, CD, 0, 2), 64);
      v128.store(to, i64x2.shuffle(AB, CD, 1, 3), 96);
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

// tile computes rows x cols of C, up to 6 x 8, from kn rows of a panel.
function tile(rows: i32, cols: i32, kn: i32, a: usize, ars: i32, aks: i32, b: usize, bks: i32, c: usize, ldc: i32, acc: i32): void {
  if (cols == nr && rows == mr) {
    tile6x8(kn, a, ars, aks, b, bks, c, ldc, acc);
    return;
  }
  for (; rows >= 2; rows -= 2) {
    tile2x8(cols, kn, a, ars, aks, b, bks, c, ldc, acc);
    a += 2 * ars;
    c += 2 * ldc;
  }
  if (rows) tile1x8(cols, kn, a, aks, b, bks, c, acc);
}

function tile6x8(kn: i32, a: usize, ars: i32, aks: i32, b: usize, bks: i32, c: usize, ldc: i32, acc: i32): void {
  let c00 = f32x4.splat(0), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00, c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00;
  const c1 = c + ldc, c2 = c1 + ldc, c3 = c2 + ldc, c4 = c3 + ldc, c5 = c4 + ldc;
  if (acc) {
    c00 = v128.load(c), c01 = v128.load(c, 16), c10 = v128.load(c1), c11 = v128.load(c1, 16), c20 = v128.load(c2), c21 = v128.load(c2, 16);
    c30 = v128.load(c3), c31 = v128.load(c3, 16), c40 = v128.load(c4), c41 = v128.load(c4, 16), c50 = v128.load(c5), c51 = v128.load(c5, 16);
  }
  let a1 = a + ars, a2 = a1 + ars, a3 = a2 + ars, a4 = a3 + ars, a5 = a4 + ars;
  for (let k = 0; k < kn; k++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    let x = v128.load32_splat(a);
    c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
    x = v128.load32_splat(a1);
    c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
    x = v128.load32_splat(a2);
    c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
    x = v128.load32_splat(a3);
    c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
    x = v128.load32_splat(a4);
    c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
    x = v128.load32_splat(a5);
    c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
    a += aks, a1 += aks, a2 += aks, a3 += aks, a4 += aks, a5 += aks;
    b += bks;
  }
  v128.store(c, c00), v128.store(c, c01, 16), v128.store(c1, c10), v128.store(c1, c11, 16), v128.store(c2, c20), v128.store(c2, c21, 16);
  v128.store(c3, c30), v128.store(c3, c31, 16), v128.store(c4, c40), v128.store(c4, c41, 16), v128.store(c5, c50), v128.store(c5, c51, 16);
}

function tile2x8(cols: i32, kn: i32, a: usize, ars: i32, aks: i32, b: usize, bks: i32, c: usize, ldc: i32, acc: i32): void {
  let c00 = f32x4.splat(0), c01 = c00, c10 = c00, c11 = c00;
  const wide = cols > 4, lo = min(cols, 4), hi = cols - 4;
  if (acc) {
    c00 = take(c, lo), c10 = take(c + ldc, lo);
    if (wide) c01 = take(c + 16, hi), c11 = take(c + ldc + 16, hi);
  }
  let a1 = a + ars;
  if (wide) {
    for (let k = 0; k < kn; k++) {
      const b0 = v128.load(b), b1 = v128.load(b, 16);
      let x = v128.load32_splat(a);
      c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
      x = v128.load32_splat(a1);
      c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
      a += aks, a1 += aks, b += bks;
    }
    give(c + 16, c01, hi), give(c + ldc + 16, c11, hi);
  } else {
    for (let k = 0; k < kn; k++) {
      const b0 = v128.load(b);
      c00 = madd(v128.load32_splat(a), b0, c00), c10 = madd(v128.load32_splat(a1), b0, c10);
      a += aks, a1 += aks, b += bks;
    }
  }
  give(c, c00, lo), give(c + ldc, c10, lo);
}

function tile1x8(cols: i32, kn: i32, a: usize, aks: i32, b: usize, bks: i32, c: usize, acc: i32): void {
  let c00 = f32x4.splat(0), c01 = c00;
  const wide = cols > 4, lo = min(cols, 4), hi = cols - 4;
  if (acc) {
    c00 = take(c, lo);
    if (wide) c01 = take(c + 16, hi);
  }
  for (let k = 0; k < kn; k++) {
    const x = v128.load32_splat(a);
    c00 = madd(x, v128.load(b), c00);
    if (wide) c01 = madd(x, v128.load(b, 16), c01);
    a += aks, b += bks;
  }
  give(c, c00, lo);
  if (wide) give(c + 16, c01, hi);
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
