// All that is the same with fused multiply-add and without.

export { evens, mask, transpose, zip } from "./move";
export { maxPool, maxPoolGrad } from "./pool";
export { vec } from "./vec";
