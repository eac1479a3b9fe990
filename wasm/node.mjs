// Runs a test binary of the engine in Node: node node.mjs PROGRAM ARGS. The program is
// one that link has rewritten; $WASM_EXEC is Go's wasm_exec.js.
// With $NOFMA it runs as in a browser without fused multiply-add.

import crypto from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { load } from "./load.js";

globalThis.fs = fs;
globalThis.path = path;
globalThis.crypto ??= crypto.webcrypto;
await import(process.env.WASM_EXEC);

const [program, ...args] = process.argv.slice(2);
const go = new Go();
go.argv = [program, ...args];
go.env = { TMPDIR: os.tmpdir(), ...process.env };
go.exit = process.exit;
process.on("exit", (code) => {
  // All goroutines asleep: let them say so.
  if (code === 0 && !go.exited) {
    go._pendingEvent = { id: 0 };
    go._resume();
  }
});
const compile = (name) => WebAssembly.compile(fs.readFileSync(name === "ravnest.wasm" ? program : new URL(name, import.meta.url)));
await (await load({ go, compile, fuse: !process.env.NOFMA })).run();
