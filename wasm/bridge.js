// The worker's view of a data channel that stayed on the page: an object with the part of
// RTCDataChannel's interface that the engine uses. peers.js has the other end of the port.

export class Bridge {
  #port;
  #sent = 0;
  #taken = 0;
  #queued = 0;
  #threshold = 0;
  readyState = "connecting";
  onopen = null;
  onmessage = null;
  onbufferedamountlow = null;
  onclose = null;

  constructor(port) {
    this.#port = port;
    port.onmessage = ({ data }) => (data.event ? this.#report(data) : this.onmessage?.({ data }));
  }

  #report({ event, taken, queued, state }) {
    const before = this.bufferedAmount;
    [this.#taken, this.#queued, this.readyState] = [taken, queued, state];
    if (event === "open") this.onopen?.({});
    if (before > this.#threshold && this.bufferedAmount <= this.#threshold) this.onbufferedamountlow?.({});
    if (event === "close") this.onclose?.({});
  }

  // bufferedAmount includes bytes on their way to the page.
  get bufferedAmount() {
    return this.#sent - this.#taken + this.#queued;
  }

  set bufferedAmountLowThreshold(n) {
    this.#threshold = n;
    this.#port.postMessage({ threshold: n });
  }

  send(view) {
    const copy = view.slice().buffer;
    this.#sent += copy.byteLength;
    this.#port.postMessage(copy, [copy]);
  }

  close() {
    this.readyState = "closing";
    this.#port.postMessage({ close: true });
  }
}
