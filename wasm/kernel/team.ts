// Products cut into jobs that several workers take, all on the engine's shared memory.
//
// The control block is Go's (team_js.go). Its word counts the jobs that nobody has taken
// yet in its lower half; the upper half is the number of the round, so that who wakes up
// late takes nothing of a round that he has not read about.

import { gemm } from "./gemm";
export { depthwise, gemm, lanewise, level, pointwise, probe } from "./gemm";

const WORD: usize = 0, ROUND: usize = 4, DONE: usize = 8, COUNT: usize = 12, JOBS: usize = 16, SIZE: usize = 20, SCRATCH: usize = 24, STRIDE: usize = 28, BROKEN: usize = 32, ASLEEP: usize = 36;

const SCRATCHOFJOB: usize = 60; // gemmJob.scratch

// spins is how long a worker looks for the next round before it sleeps: some hundred
// microseconds, longer than most gaps between the products of a pass.
const spins = 1 << 18;

// run has all jobs of a round done, this worker helping, and returns when they are.
export function run(ctl: usize): void {
  const count = load<i32>(ctl, COUNT);
  atomic.store<i32>(ctl, 0, DONE);
  const round = atomic.load<i32>(ctl, ROUND) + 1;
  atomic.store<i64>(ctl, ((<i64>round) << 32) | <i64>count, WORD);
  if (atomic.load<i32>(ctl, ASLEEP)) atomic.notify(ctl + ROUND, -1);
  work(ctl, 0);
  // Whoever took a job is at work on it: this is short.
  while (atomic.load<i32>(ctl, DONE) != count) if (atomic.load<i32>(ctl, BROKEN)) unreachable();
}

// work does jobs until none is left to take.
function work(ctl: usize, worker: i32): void {
  for (;;) {
    const word = atomic.load<i64>(ctl, WORD), left = <i32>word;
    if (left == 0) return;
    if (atomic.cmpxchg<i64>(ctl, word, word - 1, WORD) != word) continue;
    const job = <usize>load<u32>(ctl, JOBS) + (load<i32>(ctl, COUNT) - left) * load<i32>(ctl, SIZE);
    if (worker) store<u32>(job, load<u32>(ctl, SCRATCH) + (worker - 1) * load<i32>(ctl, STRIDE), SCRATCHOFJOB);
    gemm(job);
    atomic.add<i32>(ctl, 1, DONE);
  }
}

// serve is the life of worker 1 and up.
export function serve(ctl: usize, worker: i32): void {
  for (;;) {
    const round = atomic.load<i32>(ctl, ROUND);
    work(ctl, worker);
    let i = 0;
    while (i < spins && atomic.load<i32>(ctl, ROUND) == round) i++;
    if (i < spins) continue;
    // Who has begun a round before it sees this one awake has changed what wait looks at.
    atomic.add<i32>(ctl, 1, ASLEEP);
    atomic.wait<i32>(ctl + ROUND, round, -1);
    atomic.sub<i32>(ctl, 1, ASLEEP);
  }
}
