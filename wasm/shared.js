// Go's wasm_exec.js on memory that workers share: two functions of the browser that it
// calls do not take views of such memory. They get copies. Imported before wasm_exec.js.

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
