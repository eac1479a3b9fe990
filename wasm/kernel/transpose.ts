// Transposition, and copies with a stride of two. The Go side is engine/kernel/transpose.go.

// transpose sets dst[c*ds+r] = src[r*ss+c] for whole blocks of 4x4; strides in bytes.
// Sixteen rows at a time fill whole cache lines of four lines of the output, which may be a
// power of two apart and then map to few cache sets.
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

// zip interleaves n floats of a and of b, n a multiple of four.
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
