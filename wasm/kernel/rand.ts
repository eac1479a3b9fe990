// Dropout masks from Philox. The Go side is engine/kernel/rand.go.

// mask sets words of 32 bits: bit i of a word tells whether number i of its eight Philox
// blocks (rand.go) is at least drop. state is a Stream: two words of the key, three of the
// counter. block is the lower half of the first block's number, high the upper half of all.
export function mask(dst: usize, words: i32, state: usize, block: u32, high: u32, drop: u32): void {
  const d = i32x4.splat(drop), c1 = i32x4.splat(load<u32>(state, 8) | high), c2 = i32x4.splat(load<u32>(state, 12)), c3 = i32x4.splat(load<u32>(state, 16));
  const m0 = i32x4.splat(0xd2511f53), m1 = i32x4.splat(0xcd9e8d57);
  for (let i = 0; i < words; i++) {
    // a are the first four blocks, b the others. Interleaved, they hide each other's latency.
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

// least returns the 16 bits of four blocks: whether each number is at least drop.
// @ts-ignore: decorator
@inline
function least(a0: v128, a1: v128, a2: v128, a3: v128, drop: v128): u32 {
  let bits = v128.and(i32x4.ge_u(a0, drop), i32x4(1, 0x10, 0x100, 0x1000));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a1, drop), i32x4(2, 0x20, 0x200, 0x2000)));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a2, drop), i32x4(4, 0x40, 0x400, 0x4000)));
  bits = v128.or(bits, v128.and(i32x4.ge_u(a3, drop), i32x4(8, 0x80, 0x800, 0x8000)));
  return i32x4.extract_lane(bits, 0) | i32x4.extract_lane(bits, 1) | i32x4.extract_lane(bits, 2) | i32x4.extract_lane(bits, 3);
}

