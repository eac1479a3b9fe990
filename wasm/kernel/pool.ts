// Max pooling and its gradient. The specification is engine/kernel/pool.go: the first of equal
// maxima wins, and NaN beats all.

// Fields of poolArgs in pool_js.go.
const PLANES = 0, H = 4, W = 8, KH = 12, KW = 16, SH = 20, SW = 24, PT = 28, PL = 32, OH = 36, OW = 40, X = 44, Y = 48, ARG = 52;

// maxPool reduces planes of [H,W] to planes of [OH,OW]. arg, if not 0, gets the position of
// each maximum in its plane.
export function maxPool(a: usize): void {
  if (maxPool2(a)) return;
  const w = load<i32>(a, W), h = load<i32>(a, H), oh = load<i32>(a, OH), ow = load<i32>(a, OW);
  const kh = load<i32>(a, KH), kw = load<i32>(a, KW), sh = load<i32>(a, SH), sw = load<i32>(a, SW), pt = load<i32>(a, PT), pl = load<i32>(a, PL);
  // A vector is four windows that are inside the plane; the last vector may overlap the one
  // before.
  const first = (pl + sw - 1) / sw, inside = min(ow, (w + pl - kw) / sw + 1), fours = sw > 2 || inside < first + 4 ? 0 : inside - first;
  let x = <usize>load<u32>(a, X), y = <usize>load<u32>(a, Y), arg = <usize>load<u32>(a, ARG);
  for (let planes = load<i32>(a, PLANES); planes > 0; planes--) {
    for (let oy = 0; oy < oh; oy++) {
      const y0 = max(oy * sh - pt, 0), y1 = min(oy * sh - pt + kh, h);
      // The vector code ignores NaN: a line that has one is computed again.
      let seen = f32x4.splat(0);
      for (let j = 0; j < fours; j += 4) {
        const i = first + min(j, fours - 4), left = i * sw - pl, to = y + (i << 2), at = arg + (i << 2);
        if (sw == 2 && kw == 3) seen = arg ? threeArg(x, w, y0, y1, left, to, at, seen) : three(x, w, y0, y1, left, to, seen);
        else if (sw == 2) seen = arg ? fourArg(x, w, y0, y1, left, kw, 2, to, at, seen) : four(x, w, y0, y1, left, kw, 2, to, seen);
        else seen = arg ? fourArg(x, w, y0, y1, left, kw, 1, to, at, seen) : four(x, w, y0, y1, left, kw, 1, to, seen);
      }
      const skip = v128.any_true(seen) ? 0 : fours;
      for (let ox = 0; ox < ow; ox++) {
        if (ox == first) ox += skip;
        if (ox >= ow) break;
        const left = ox * sw - pl;
        one(x, w, y0, y1, max(left, 0), min(left + kw, w), y + (ox << 2), arg ? arg + (ox << 2) : 0);
      }
      y += ow << 2;
      if (arg) arg += ow << 2;
    }
    x += (h * w) << 2;
  }
}

// loadStrided loads four floats sw apart.
// @ts-ignore: decorator
@inline
function loadStrided(p: usize, sw: i32): v128 {
  return sw == 2 ? i32x4.shuffle(v128.load(p), v128.load(p, 12), 0, 2, 5, 7) : v128.load(p);
}

// four computes the maxima of four windows. It sets bits of seen where a float is NaN.
// @ts-ignore: decorator
@inline
function four(x: usize, w: i32, y0: i32, y1: i32, left: i32, kw: i32, sw: i32, y: usize, seen: v128): v128 {
  let m = f32x4.splat(-Infinity), p = x + ((y0 * w + left) << 2);
  for (let r = y0; r < y1; r++) {
    for (let q = 0; q < kw; q++) {
      const v = loadStrided(p + (q << 2), sw);
      m = f32x4.pmax(m, v);
      seen = v128.or(seen, f32x4.ne(v, v));
    }
    p += w << 2;
  }
  v128.store(y, m);
  return seen;
}

// fourArg is four with the positions of the maxima.
// @ts-ignore: decorator
@inline
function fourArg(x: usize, w: i32, y0: i32, y1: i32, left: i32, kw: i32, sw: i32, y: usize, arg: usize, seen: v128): v128 {
  let p = x + ((y0 * w + left) << 2), line = i32x4.add(i32x4.splat(y0 * w + left), sw == 2 ? i32x4(0, 2, 4, 6) : i32x4(0, 1, 2, 3));
  let m = f32x4.splat(-Infinity), at = line;
  for (let r = y0; r < y1; r++) {
    let place = line;
    for (let q = 0; q < kw; q++) {
      const v = loadStrided(p + (q << 2), sw);
      at = v128.bitselect(place, at, f32x4.gt(v, m));
      m = f32x4.pmax(m, v);
      seen = v128.or(seen, f32x4.ne(v, v));
      place = i32x4.add(place, i32x4.splat(1));
    }
    line = i32x4.add(line, i32x4.splat(w));
    p += w << 2;
  }
  v128.store(y, m);
  v128.store(arg, at);
  return seen;
}

// three is four for windows 3 wide with a stride of two, whose nine floats of a line are loaded at
// once. Their sum tells of NaN, and of infinities of both signs, which do no harm.
// @ts-ignore: decorator
@inline
function three(x: usize, w: i32, y0: i32, y1: i32, left: i32, y: usize, seen: v128): v128 {
  let m = f32x4.splat(-Infinity), sum = f32x4.splat(0), p = x + ((y0 * w + left) << 2);
  for (let r = y0; r < y1; r++) {
    const a = v128.load(p), b = v128.load(p, 16), c = v128.load(p, 20);
    const even = i32x4.shuffle(a, b, 0, 2, 4, 6);
    m = f32x4.pmax(f32x4.pmax(f32x4.pmax(m, even), i32x4.shuffle(a, b, 1, 3, 5, 7)), i32x4.shuffle(even, c, 1, 2, 3, 7));
    sum = f32x4.add(f32x4.add(sum, a), f32x4.add(b, c));
    p += w << 2;
  }
  v128.store(y, m);
  return v128.or(seen, f32x4.ne(sum, sum));
}

// threeArg is three with the positions of the maxima.
// @ts-ignore: decorator
@inline
function threeArg(x: usize, w: i32, y0: i32, y1: i32, left: i32, y: usize, arg: usize, seen: v128): v128 {
  let m = f32x4.splat(-Infinity), sum = f32x4.splat(0), p = x + ((y0 * w + left) << 2);
  let first = i32x4.add(i32x4.splat(y0 * w + left), i32x4(0, 2, 4, 6)), at = first;
  for (let r = y0; r < y1; r++) {
    const a = v128.load(p), b = v128.load(p, 16), c = v128.load(p, 20);
    const even = i32x4.shuffle(a, b, 0, 2, 4, 6), odd = i32x4.shuffle(a, b, 1, 3, 5, 7), last = i32x4.shuffle(even, c, 1, 2, 3, 7);
    at = v128.bitselect(first, at, f32x4.gt(even, m));
    m = f32x4.pmax(m, even);
    at = v128.bitselect(i32x4.add(first, i32x4.splat(1)), at, f32x4.gt(odd, m));
    m = f32x4.pmax(m, odd);
    at = v128.bitselect(i32x4.add(first, i32x4.splat(2)), at, f32x4.gt(last, m));
    m = f32x4.pmax(m, last);
    sum = f32x4.add(f32x4.add(sum, a), f32x4.add(b, c));
    first = i32x4.add(first, i32x4.splat(w));
    p += w << 2;
  }
  v128.store(y, m);
  v128.store(arg, at);
  return v128.or(seen, f32x4.ne(sum, sum));
}

// @ts-ignore: decorator
@inline
function one(x: usize, w: i32, y0: i32, y1: i32, x0: i32, x1: i32, y: usize, arg: usize): void {
  let at = y0 * w + x0, m: f32 = load<f32>(x + (at << 2));
  for (let r = y0; r < y1; r++) {
    for (let i = r * w + x0, end = r * w + x1; i < end; i++) {
      const v = load<f32>(x + (i << 2));
      if (v > m || v != v) {
        m = v;
        at = i;
      }
    }
  }
  store<f32>(y, m);
  if (arg) store<i32>(arg, at);
}

// maxPool2 is maxPool for 2x2 windows with stride 2 without padding; small planes share
// vectors. It returns false if it does not apply or x has NaN; results are invalid then.
function maxPool2(a: usize): bool {
  const w = load<i32>(a, W), h = load<i32>(a, H), oh = load<i32>(a, OH), ow = load<i32>(a, OW);
  if (load<i32>(a, KH) != 2 || load<i32>(a, KW) != 2 || load<i32>(a, SH) != 2 || load<i32>(a, SW) != 2 || load<i32>(a, PT) || load<i32>(a, PL) || 2 * oh > h || 2 * ow > w) return false;
  let x = <usize>load<u32>(a, X), y = <usize>load<u32>(a, Y), arg = <usize>load<u32>(a, ARG), planes = load<i32>(a, PLANES);
  const row = w << 2;
  let seen = f32x4.splat(0);
  if (h == 2 && w == 2) {
    for (; planes >= 4; planes -= 4) {
      const v0 = v128.load(x), v1 = v128.load(x, 16), v2 = v128.load(x, 32), v3 = v128.load(x, 48);
      const al = i32x4.shuffle(v0, v1, 0, 1, 4, 5), ah = i32x4.shuffle(v2, v3, 0, 1, 4, 5);
      const bl = i32x4.shuffle(v0, v1, 2, 3, 6, 7), bh = i32x4.shuffle(v2, v3, 2, 3, 6, 7);
      seen = largest(al, ah, bl, bh, i32x4.splat(0), w, y, arg, seen);
      x += 64;
      y += 16;
      if (arg) arg += 16;
    }
  }
  for (; planes > 0; planes--) {
    for (let i = 0; i < oh; i++) {
      const p = x + 2 * i * row, at = 2 * i * w;
      let j = 0;
      if (w == 4 && i + 2 <= oh) {
        seen = largest(v128.load(p), v128.load(p, 32), v128.load(p, 16), v128.load(p, 48), i32x4.add(i32x4.splat(at), i32x4(0, 2, 8, 10)), w, y, arg, seen);
        y += 16;
        if (arg) arg += 16;
        i++;
        continue;
      }
      for (; j + 4 <= ow; j += 4) {
        const q = p + (j << 3);
        seen = largest(v128.load(q), v128.load(q, 16), v128.load(q + row), v128.load(q + row, 16), i32x4.add(i32x4.splat(at + 2 * j), i32x4(0, 2, 4, 6)), w, y, arg, seen);
        y += 16;
        if (arg) arg += 16;
      }
      for (; j < ow; j++) {
        one(x, w, 2 * i, 2 * i + 2, 2 * j, 2 * j + 2, y, arg);
        y += 4;
        if (arg) arg += 4;
      }
    }
    x += h * row;
  }
  return !v128.any_true(f32x4.ne(seen, seen));
}

// largest computes the maxima of pairs of al, ah and of the pairs below them, at positions
// from at on. It adds up all floats: the sum is NaN if one of them is.
// @ts-ignore: decorator
@inline
function largest(al: v128, ah: v128, bl: v128, bh: v128, at: v128, w: i32, y: usize, arg: usize, seen: v128): v128 {
  const a0 = i32x4.shuffle(al, ah, 0, 2, 4, 6), a1 = i32x4.shuffle(al, ah, 1, 3, 5, 7);
  const b0 = i32x4.shuffle(bl, bh, 0, 2, 4, 6), b1 = i32x4.shuffle(bl, bh, 1, 3, 5, 7);
  const m = f32x4.pmax(a0, a1), n = f32x4.pmax(b0, b1);
  v128.store(y, f32x4.pmax(m, n));
  if (arg) {
    // A set mask is -1.
    const ka = i32x4.sub(at, f32x4.gt(a1, a0)), kb = i32x4.sub(i32x4.add(at, i32x4.splat(w)), f32x4.gt(b1, b0));
    v128.store(arg, v128.bitselect(kb, ka, f32x4.gt(n, m)));
  }
  return f32x4.add(seen, f32x4.add(f32x4.add(a0, a1), f32x4.add(b0, b1)));
}

// maxPoolGrad adds each of the out floats of dy to the position given by arg, in zeroed planes
// of plane floats.
export function maxPoolGrad(planes: i32, dx: usize, plane: i32, dy: usize, arg: usize, out: i32): void {
  for (; planes > 0; planes--) {
    for (const end = dy + (out << 2); dy < end; dy += 4) {
      const p = dx + (load<i32>(arg) << 2);
      store<f32>(p, load<f32>(p) + load<f32>(dy));
      arg += 4;
    }
    dx += plane << 2;
  }
}
