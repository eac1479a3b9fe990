// Vectors of which not every lane exists.

// take reads the first lanes of a vector, of which no more may exist.
// @ts-ignore: decorator
@inline
export function take(p: usize, lanes: i32): v128 {
  return lanes >= 4 ? v128.load(p) : some(p, lanes);
}

function some(p: usize, lanes: i32): v128 {
  let v = v128.load32_zero(p);
  if (lanes > 1) v = v128.load_lane<f32>(p, v, 1, 4);
  if (lanes > 2) v = v128.load_lane<f32>(p, v, 2, 8);
  return v;
}

// give writes them.
// @ts-ignore: decorator
@inline
export function give(p: usize, v: v128, lanes: i32): void {
  if (lanes >= 4) v128.store(p, v);
  else part(p, v, lanes);
}

function part(p: usize, v: v128, lanes: i32): void {
  v128.store_lane<f32>(p, v, 0);
  if (lanes > 1) v128.store_lane<f32>(p, v, 1, 4);
  if (lanes > 2) v128.store_lane<f32>(p, v, 2, 8);
}
