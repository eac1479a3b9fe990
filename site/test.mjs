// The pages' reckoning, without a page: node --test.

import assert from "node:assert/strict";
import test from "node:test";
import { Peers } from "../wasm/peers.js";
import { linkRates } from "./src/pipeline.js";
import { authorization, readings } from "./src/token.js";
import { bytes, count, duration, flop, plain, sentence } from "./src/words.js";

test("links of a chain from what its stages move", () => {
  for (const links of [[], [5], [1, 2], [7, 0, 3], [4, 1, 8, 2, 6]]) {
    const moved = [...links, 0].map((rate, i) => rate + (links[i - 1] ?? 0));
    assert.deepEqual(linkRates(moved), links);
  }
  // Stages do not report at the same moment; no link carries less than nothing.
  assert.deepEqual(linkRates([9, 8, 1]), [9, 1]);
  assert.deepEqual(linkRates([1, 1, 9, 1, 1]).map(Math.sign), [1, 0, 0, 1]);
});

test("figures in words", () => {
  const cases = [
    [bytes(0), "0 B"],
    [bytes(999), "999 B"],
    [bytes(1000), "1 kB"],
    [bytes(1234567), "1.23 MB"],
    [bytes(234567), "235 kB"],
    [bytes(5e15), "5000 TB"],
    [bytes(1e9, 2), "1 GB"],
    [flop(1.57e9), "1.57 GFLOP"],
    [count(0.1234), "0.123"],
    [count(99.94), "99.9"],
    [count(21560.4), "21,560"],
    [count(12345678), "12.3 million"],
    [duration(59_400), "59 s"],
    [duration(61_000), "1 min 1 s"],
    [duration(3_720_000), "1 h 2 min"],
    [sentence("the run is over"), "The run is over"],
  ];
  for (const [got, want] of cases) assert.equal(got, want);
});

test("tokens of links", () => {
  const cases = [
    ["", []],
    ["#other", []],
    ["#token=plain", ["plain"]],
    ["#token=q83v+/8=", ["q83v+/8="]],
    ["#token=a&b=c#d", ["a&b=c#d"]],
    ["#token=%CE%A9mega", ["Ωmega", "%CE%A9mega"]],
    ["#token=p%C3%A2t%C3%A9", ["pâté", "p%C3%A2t%C3%A9"]],
    ["#token=a%26b", ["a&b", "a%26b"]],
    ["#token=100%", ["100%"]],
    ["#token=100%%CE%A9", ["100%Ω"]],
  ];
  for (const [hash, want] of cases) assert.deepEqual(readings(hash), want, hash);
});

test("tokens in headers", () => {
  assert.deepEqual(authorization(""), {});
  for (const token of ["t", "q83v+/8=", "pâté Ω 中 😀", "ÿÿÿ>>>???"]) {
    const [scheme, b64] = authorization(token).Authorization.split(" ");
    assert.equal(scheme, "Ravnest");
    assert.match(b64, /^[A-Za-z0-9_-]+$/);
    assert.equal(Buffer.from(b64, "base64url").toString(), token);
  }
});

test("where others can read along", () => {
  const at = (href) => plain(new URL(href));
  for (const href of ["http://192.0.2.1:8090/", "http://example.org/", "http://[fd09::1]/", "http://localhost.evil.example/", "http://127.0.0.1.evil.example/"]) assert.equal(at(href), true, href);
  for (const href of ["https://example.org/", "http://localhost:8090/", "http://127.0.0.1:1/", "http://[::1]:8090/"]) assert.equal(at(href), false, href);
});

test("relayed addresses are told later, and none from before a restart", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  let pc;
  globalThis.RTCPeerConnection = class {
    localDescription = { sdp: "a=ice-ufrag:now\r\n" };
    constructor() {
      pc = this;
    }
    createDataChannel() {
      return {};
    }
    close() {}
  };
  const told = [];
  const peers = new Peers({ postMessage: ({ rtc }) => rtc.op === "signal" && told.push(JSON.parse(rtc.signal).candidate) });
  peers.take({ op: "open", id: 1, ice: [], offers: false, label: "ravnest", channel: 0 });
  for (const [type, usernameFragment] of [["relay", "before"], ["relay", "now"], ["srflx", "now"], ["host", "now"]]) {
    pc.onicecandidate({ candidate: { candidate: `candidate:${type} ${usernameFragment}`, type, usernameFragment } });
  }
  pc.onicecandidate({ candidate: null });
  assert.deepEqual(told, ["candidate:srflx now", "candidate:host now"]);
  t.mock.timers.tick(1000);
  assert.deepEqual(told, ["candidate:srflx now", "candidate:host now", "candidate:relay now"]);
  pc.iceConnectionState = "connected";
  pc.oniceconnectionstatechange();
  pc.onicecandidate({ candidate: { candidate: "candidate:moved", type: "relay", usernameFragment: "now" } });
  assert.equal(told.at(-1), "candidate:moved");
  peers.close();
  delete globalThis.RTCPeerConnection;
});
