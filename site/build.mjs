// Builds the pages into dist: bundles and copies what they are made of, and compresses it.
// The engine (ravnest.wasm) and Go's wasm_exec.js are put into ENGINE by make before.

import { build } from "esbuild";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants, gzipSync } from "node:zlib";

const engine = process.argv[2];
if (!engine) throw new Error("usage: node build.mjs ENGINE (the directory of ravnest.wasm and wasm_exec.js)");
const dist = "dist";
const assets = join(dist, "assets");
for (const name of readdirSync(dist)) if (name !== ".keep") rmSync(join(dist, name), { recursive: true });
mkdirSync(assets, { recursive: true });

for (const name of readdirSync("src")) {
  if (name.endsWith(".html")) cpSync(join("src", name), join(dist, name));
  if (name.endsWith(".svg")) cpSync(join("src", name), join(assets, name));
}
// Modules that name each other's files at run time (workers) stay as they are.
for (const name of readdirSync(engine)) cpSync(join(engine, name), join(assets, name));
for (const name of readdirSync("../wasm")) if (name.endsWith(".js") || name.endsWith(".wasm")) cpSync(join("../wasm", name), join(assets, name));
await build({
  entryPoints: ["src/contribute.js", "src/dashboard.js", "src/style.css"],
  bundle: true,
  splitting: true, // what both pages use is fetched once
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: assets,
  external: ["./tab.js"],
  logLevel: "warning",
});

// A visitor fetches the modules of shared memory or those of one thread, never both.
const names = readdirSync(assets);
const single = names.filter((name) => names.includes(name.replace(".", "-shared.")));
const shared = names.filter((name) => name.includes("-shared."));
const size = {};
// The smallest brotli takes seconds for the engine, so files are packed side by side.
const pack = promisify(brotliCompress);
await Promise.all(names.map(async (name) => {
  const path = join(assets, name);
  const data = readFileSync(path);
  const br = await pack(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24, [constants.BROTLI_PARAM_SIZE_HINT]: data.length } });
  writeFileSync(path + ".br", br);
  writeFileSync(path + ".gz", gzipSync(data, { level: 9 }));
  rmSync(path); // who takes neither is sent what .gz unpacks to
  size[name] = br.length;
}));
const without = (left) => names.reduce((sum, name) => sum + (left.includes(name) ? 0 : size[name]), 0);
const most = Math.max(without(single), without(shared));
console.error(`site: a visitor fetches ${(most / 1e6).toFixed(2)} MB`);
if (most > 2e6) throw new Error("that is more than the 2 MB that a visitor should wait for");
