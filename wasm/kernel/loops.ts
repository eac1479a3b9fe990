// The kernels that are the same with fused multiply-add and without.

export { maxPool, maxPoolGrad } from "./pool";
export { mask } from "./rand";
export { evens, transpose, zip } from "./transpose";
export { vec } from "./z_vec";
