// Makes Go's wasm_exec.js work on shared memory: two of the browser's functions that it calls
// do not accept views of such memory and are given copies. Must be imported before
// wasm_exec.js.

const isShared = (v) => typeof SharedArrayBuffer === "function" && v?.buffer instanceof SharedArrayBuffer;

const decode = TextDecoder.prototype.decode;
TextDecoder.prototype.decode = function (view, options) {
  return decode.call(this, isShared(view) ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice() : view, options);
};

const fill = crypto.getRandomValues.bind(crypto);
Object.defineProperty(crypto, "getRandomValues", {
  configurable: true,
  value: (view) => {
    if (!isShared(view)) return fill(view);
    view.set(fill(new Uint8Array(view.byteLength)));
    return view;
  },
});
