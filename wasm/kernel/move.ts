// Loops that are not over blocks of elements: transposing, every second float, masks from
// random numbers. Their Go twins are in engine/kernel.

// transpose sets dst[c*ds+r] = src[r*ss+c] for whole blocks of 4x4; strides in bytes.
// Sixteen rows at a time make whole cache lines of four of the output's, which may well be
// apart by what lets few of them stay in the cache.
export function transpose(dst: usize, ds: i32, src: usize, ss: i32, rows: i32, cols: i32): void {
  for (let r0 = 0; r0 < rows; r0 += 16) {
    for (let c = 0; c < cols; c += 4) {
      let from = src + r0 * ss + (c << 2), to = dst + c * ds + (r0 << 2);
      for (const end = to + (min(16, rows - r0) << 2); to < end; to += 16) {
        const v0 = v128.load(from), v1 = v128.load(from + ss), v2 = v128.load(from + 2 * ss), v3 = v128.load(from + 3 * ss);
        const a = i32x4.shuffle(v0, v1, 0, 4, 1, 5), b = i32x4.shuffle(v2, v3, 0, 4, 1, 5);
        const d = i32x4.shuffle(v0, v1, 2, 6, 3, 7), e = i32x4.shuffle(v2, v3, 2, 6, 3, 7);
        v128.store(to, i64x2.shuffle(a, b, 0, 2));
        v128.store(to + ds, i64x2.shuffle(a, b, 1, 3));
        v128.store(to + 2 * ds, i64x2.shuffle(d, e, 0, 2));
        v128.store(to + 3 * ds, i64x2.shuffle(d, e, 1, 3));
        from += ss << 2;
      }
    }
  }
}

// evens copies every second float, n of them, a multiple of four.
export function evens(dst: usize, src: usize, n: i32): void {
  for (let i = 0; i < n; i += 4) {
    v128.store(dst, i32x4.shuffle(v128.load(src), v128.load(src, 16), 0, 2, 4, 6));
    src += 32;
    dst += 16;
  }
}

// zip writes n floats of a and of b by turns, n a multiple of four.
export function zip(dst: usize, a: usize, b: usize, n: i32): void {
  for (let i = 0; i < n; i += 4) {
    const x = v128.load(a), y = v128.load(b);
    v128.store(dst, i32x4.shuffle(x, y, 0, 4, 1, 5));
    v128.store(dst, i32x4.shuffle(x, y, 2, 6, 3, 7), 16);
    a += 16;
    b += 16;
    dst += 32;
  }
}

// mask sets words of 32 bits: bit i of a word is whether number i of its eight Philox
// blocks (philox.go) is at least drop. state is a Stream: two words of key, three of the
// counter; block is the number of the first block, high the upper half of all of them.
export function mask(dst: usize, words: i32, state: usize, block: u32, high: u32, drop: u32): void {
  const d = i32x4.splat(drop), c1 = i32x4.splat(load<u32>(state, 8) | high), c2 = i32x4.splat(load<u32>(state, 12)), c3 = i32x4.splat(load<u32>(state, 16));
  const m0 = i32x4.splat(0xd2511f53), m1 = i32x4.splat(0xcd9e8d57);
  for (let i = 0; i < words; i++) {
    // The first four blocks are a, the others b: what they wait for, they wait for together.
    let a0 = i32x4.add(i32x4.splat(block), i32x4(0, 1, 2, 3)), a1 = c1, a2 = c2, a3 = c3;
    let b0 = i32x4.add(i32x4.splat(block), i32x4(4, 5, 6, 7)), b1 = c1, b2 = c2, b3 = c3;
    let k0 = load<u32>(state), k1 = load<u32>(state, 4);
    for (let r = 0; r < 10; r++) {
      const key0 = i32x4.splat(k0), key1 = i32x4.splat(k1);
      const al = i64x2.extmul_low_i32x4_u(a0, m0), ah = i64x2.extmul_high_i32x4_u(a0, m0);
      const bl = i64x2.extmul_low_i32x4_u(b0, m0), bh = i64x2.extmul_high_i32x4_u(b0, m0);
      const cl = i64x2.extmul_low_i32x4_u(a2, m1), ch = i64x2.extmul_high_i32x4_u(a2, m1);
      const dl = i64x2.extmul_low_i32x4_u(b2, m1), dh = i64x2.extmul_high_i32x4_u(b2, m1);
      a0 = v128.xor(v128.xor(i32x4.shuffle(cl, ch, 1, 3, 5, 7), a1), key0);
      b0 = v128.xor(v128.xor(i32x4.shuffle(dl, dh, 1, 3, 5, 7), b1), key0);
      a1 = i32x4.shuffle(cl, ch, 0, 2, 4, 6);
      b1 = i32x4.shuffle(dl, dh, 0, 2, 4, 6);
      a2 = v128.xor(v128.xor(i32x4.shuffle(al, ah, 1, 3, 5, 7), a3), key1);
      b2 = v128.xor(v128.xor(i32x4.shuffle(bl, bh, 1, 3, 5, 7), b3), key1);
      a3 = i32x4.shuffle(al, ah, 0, 2, 4, 6);
      b3 = i32x4.shuffle(bl, bh, 0, 2, 4, 6);
      k0 += 0x9e3779b9;
      k1 += 0xbb67ae85;
    }
    store<u32>(dst, least(a0, a1, a2, a3, d) | (least(b0, b1, b2, b3, d) << 16));
    dst += 4;
    block += 8;
  }
}

// least gives the 16 bits of four blocks: whether each number is at least drop.
// @ts-ignore: decorator
@inline
function least(a0: v128, a1: v128, a2: v128, a3: v128, drop: v128): u32 {
  let bits = v128.and(i32x4.ge_u(a0, drop), i32x4(1, 0x10, 0x100, 0x1000));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a1, drop), i32x4(2, 0x20, 0x200, 0x2000)));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a2, drop), i32x4(4, 0x40, 0x400, 0x4000)));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a3, drop), i32x4(8, 0x80, 0x800, 0x8000)));
  return i32x4.extract_lane(bits, 0) | i32x4.extract_lane(bits, 1) | i32x4.extract_lane(bits, 2) | i32x4.extract_lane(bits, 3);
}

