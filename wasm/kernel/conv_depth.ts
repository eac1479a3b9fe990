// Depthwise convolutions with stride 1 as a product of one row. The plane is copied with its
// padding such that windows are adjacent across the ends of lines: lines of the copy are as
// long as those of the result plus the overlap of a window. What is computed at positions
// between two lines of the result is dropped.

import { give } from "./lane";
import { tile1x8Windows } from "./z_tile";

// Fields of planeArgs in conv_lane_js.go.
const IMAGES = 0, H = 4, W = 8, OH = 12, OW = 16, KH = 20, KW = 24, TOP = 28, LEFT = 32, BACK = 36, RELU = 40;
const X = 44, XNEXT = 48, Y = 52, YNEXT = 56, WEIGHTS = 60, BIAS = 64, SCRATCH = 68;

const chunk = 32; // columns of the tile

// depthwise computes a channel of some images. For the gradient of x the window is rotated.
export function depthwise(a: usize): void {
  const oh = load<i32>(a, OH), ow = load<i32>(a, OW), kh = load<i32>(a, KH), kw = load<i32>(a, KW);
  const rows = oh + kh - 1, pitch = ow + kw - 1, n = (oh - 1) * pitch + ow;
  const taps = <usize>load<u32>(a, SCRATCH), plane = taps + ((kh * kw) << 2), out = plane + ((rows * pitch + chunk) << 2);
  let at = taps;
  for (let i = 0; i < kh; i++) {
    for (let j = 0; j < kw; j++) {
      store<i32>(at, load<i32>(a, BACK) ? (kh - 1 - i) * pitch + kw - 1 - j : i * pitch + j);
      at += 4;
    }
  }
  let x = <usize>load<u32>(a, X), y = <usize>load<u32>(a, Y);
  for (let images = load<i32>(a, IMAGES); images > 0; images--) {
    loadPlane(plane, a, x, rows, pitch);
    for (let i = 0; i < n; i += chunk) tile1x8Windows(kh * kw, <usize>load<u32>(a, WEIGHTS), 0, 4, plane + (i << 2), taps, out + (i << 2), 0, 0, 4);
    storePlane(y, out, a, pitch);
    x += load<i32>(a, XNEXT);
    y += load<i32>(a, YNEXT);
  }
}

// loadPlane copies a plane with its padding.
function loadPlane(dst: usize, a: usize, x: usize, rows: i32, pitch: i32): void {
  const h = load<i32>(a, H), w = load<i32>(a, W), top = load<i32>(a, TOP), left = load<i32>(a, LEFT);
  // Columns [from,to) of the copy are in the plane.
  const from = max(0, min(pitch, left)), to = max(from, min(pitch, w + left));
  for (let r = 0; r < rows; r++) {
    const line = r - top;
    if (line < 0 || line >= h) {
      zero(dst, pitch);
    } else {
      zero(dst, from);
      copy(dst + (from << 2), x + ((line * w + from - left) << 2), to - from, (h - line - 1) * w >= 4);
      zero(dst + (to << 2), pitch - to);
    }
    dst += pitch << 2;
  }
}

// The following write up to three floats beyond their end, which the next write replaces.

// @ts-ignore: decorator
@inline
function zero(dst: usize, n: i32): void {
  for (; n > 0; n -= 4) {
    v128.store(dst, f32x4.splat(0));
    dst += 16;
  }
}

// copy copies n floats. beyond says that three more can be read.
// @ts-ignore: decorator
@inline
function copy(dst: usize, src: usize, n: i32, beyond: bool): void {
  for (; n >= 12; n -= 12) {
    v128.store(dst, v128.load(src));
    v128.store(dst, v128.load(src, 16), 16);
    v128.store(dst, v128.load(src, 32), 32);
    dst += 48;
    src += 48;
  }
  for (const least = beyond ? 0 : 3; n > least; n -= 4) {
    v128.store(dst, v128.load(src));
    dst += 16;
    src += 16;
  }
  for (; n > 0; n--) {
    store<f32>(dst, load<f32>(src));
    dst += 4;
    src += 4;
  }
}

// storePlane copies the lines of a result to y, with bias and ReLU. Adding -0 changes nothing,
// and ReLU keeps NaN and -0.
function storePlane(y: usize, src: usize, a: usize, pitch: i32): void {
  const ow = load<i32>(a, OW), bias = <usize>load<u32>(a, BIAS);
  const add = bias ? v128.load32_splat(bias) : f32x4.splat(-0), floor = f32x4.splat(load<i32>(a, RELU) ? 0 : -Infinity);
  for (let r = load<i32>(a, OH); r > 0; r--) {
    let i = 0;
    for (; i + 8 <= ow; i += 8) {
      const p = src + (i << 2), q = y + (i << 2);
      v128.store(q, f32x4.pmax(f32x4.add(v128.load(p), add), floor));
      v128.store(q, f32x4.pmax(f32x4.add(v128.load(p, 16), add), floor), 16);
    }
    for (; i < ow; i += 4) give(y + (i << 2), f32x4.pmax(f32x4.add(v128.load(src + (i << 2)), add), floor), r * ow - i);
    src += pitch << 2;
    y += ow << 2;
  }
}
