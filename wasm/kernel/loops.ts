// All that is the same with fused multiply-add and without.

export { evens, mask, pool2, transpose, zip } from "./move";
export { vec } from "./vec";
