// Loads and stores of part of a vector.

// take loads the first lanes of a vector and reads no further.
// @ts-ignore: decorator
@inline
export function take(p: usize, lanes: i32): v128 {
  return lanes >= 4 ? v128.load(p) : takePart(p, lanes);
}

function takePart(p: usize, lanes: i32): v128 {
  let v = v128.load32_zero(p);
  if (lanes > 1) v = v128.load_lane<f32>(p, v, 1, 4);
  if (lanes > 2) v = v128.load_lane<f32>(p, v, 2, 8);
  return v;
}

// give stores the first lanes of a vector.
// @ts-ignore: decorator
@inline
export function give(p: usize, v: v128, lanes: i32): void {
  if (lanes >= 4) v128.store(p, v);
  else givePart(p, v, lanes);
}

function givePart(p: usize, v: v128, lanes: i32): void {
  v128.store_lane<f32>(p, v, 0);
  if (lanes > 1) v128.store_lane<f32>(p, v, 1, 4);
  if (lanes > 2) v128.store_lane<f32>(p, v, 2, 8);
}
