// Products split into jobs that workers share, all on the engine's memory.
//
// The control block is that of team_js.go. The lower half of its word counts unclaimed jobs;
// the upper half is the number of the round, so that a worker that wakes up late cannot claim
// a job of a round whose fields it has not read.

import { gemm } from "./gemm";
export { depthwise, gemm, lanewise, level, pointwise, probe } from "./gemm";

const WORD: usize = 0, ROUND: usize = 4, DONE: usize = 8, COUNT: usize = 12, JOBS: usize = 16, SIZE: usize = 20, SCRATCH: usize = 24, STRIDE: usize = 28, BROKEN: usize = 32, ASLEEP: usize = 36;

const SCRATCHOFJOB: usize = 60; // gemmJob.scratch

// spins is how often a worker polls for the next round before it sleeps: some hundred
// microseconds, longer than most gaps between the products of a pass.
const spins = 1 << 18;

// run computes all jobs of a round on this worker and the others, and returns when all are
// done.
export function run(ctl: usize): void {
  const count = load<i32>(ctl, COUNT);
  atomic.store<i32>(ctl, 0, DONE);
  const round = atomic.load<i32>(ctl, ROUND) + 1;
  atomic.store<i64>(ctl, ((<i64>round) << 32) | <i64>count, WORD);
  if (atomic.load<i32>(ctl, ASLEEP)) atomic.notify(ctl + ROUND, -1);
  work(ctl, 0);
  // The remaining jobs are being computed, so this wait is short.
  while (atomic.load<i32>(ctl, DONE) != count) if (atomic.load<i32>(ctl, BROKEN)) unreachable();
}

// work computes jobs until none is left to claim.
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

// serve is the main loop of workers 1 and up.
export function serve(ctl: usize, worker: i32): void {
  for (;;) {
    const round = atomic.load<i32>(ctl, ROUND);
    work(ctl, worker);
    let i = 0;
    while (i < spins && atomic.load<i32>(ctl, ROUND) == round) i++;
    if (i < spins) continue;
    // A round that begins before ASLEEP is visible changes ROUND, so wait returns at once.
    atomic.add<i32>(ctl, 1, ASLEEP);
    atomic.wait<i32>(ctl + ROUND, round, -1);
    atomic.sub<i32>(ctl, 1, ASLEEP);
  }
}
