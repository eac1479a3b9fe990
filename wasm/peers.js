// The page's half of WebRTC. Peer connections exist on the main thread only, but the engine
// runs in a worker. This code makes the connections that the worker asks for, transfers their
// data channels to it and carries signals. engine/transport/rtc/endpoint_js.go is the other
// half and documents the messages.

// linger is how long in ms a connection outlives its channel, for the last data to be sent.
const linger = 1000;
// moving is how long in ms finding another path may take, again after how many the side that began
// looks for addresses anew: the system may not have known them yet.
const moving = 10_000;
const again = 2000;
// later is how much later in ms than other candidates the relay's are told at first: as in
// engine/transport/rtc/endpoint.go.
const later = 500;

export class Peers {
  #worker;
  #open = new Map();
  #bridged;

  // bridged: behave like a browser that cannot transfer data channels.
  constructor(worker, { bridged = false } = {}) {
    this.#worker = worker;
    this.#bridged = bridged;
  }

  // take handles a message from the worker.
  take(m) {
    if (m.op === "open") {
      this.#connect(m);
      return;
    }
    const peer = this.#open.get(m.id);
    if (!peer) return;
    if (m.op === "signal") peer.signal(m.signal);
    if (m.op === "move") peer.move();
    if (m.op === "close") this.#drop(m.id, peer);
  }

  // close ends all connections.
  close() {
    for (const [id, peer] of this.#open) this.#drop(id, peer);
  }

  #drop(id, peer) {
    this.#open.delete(id);
    clearInterval(peer.search);
    peer.pc.oniceconnectionstatechange = peer.pc.onconnectionstatechange = null;
    peer.pc.close();
  }

  #connect({ id, ice, offers, label, channel }) {
    const tell = (op, more, transfer = []) => this.#worker.postMessage({ rtc: { op, id, ...more } }, transfer);
    let pc;
    try {
      pc = new RTCPeerConnection({ iceServers: ice });
    } catch (err) {
      tell("gone", { why: `the browser cannot make a peer connection: ${err.message}` });
      return;
    }
    const peer = {
      pc,
      search: 0, // a timer while another path is looked for
      signal: (s) => (chain = chain.then(() => accept(s)).catch(refuse)),
      move: () => {
        if (!up || peer.search) return;
        search(true);
        chain = chain.then(restart).catch(refuse);
      },
    };
    this.#open.set(id, peer);
    // Handle requests one at a time, in order.
    let chain = Promise.resolve();
    const refuse = (err) => tell("refuse", { why: err.message });
    const say = (s) => tell("signal", { signal: JSON.stringify(s) });
    const describe = async (kind) => {
      await pc.setLocalDescription();
      say({ kind, sdp: pc.localDescription.sdp });
    };
    // search allows the connection to be without a path for a while.
    const search = (began) => {
      if (peer.search) return;
      const end = Date.now() + moving;
      peer.search = setInterval(() => {
        if (Date.now() < end) {
          if (began && !found() && pc.signalingState === "stable") chain = chain.then(restart).catch(refuse);
          return;
        }
        settled();
        if (!found()) tell("gone", { why: `no path to it was found within ${moving / 1000} s after an address had changed` });
      }, again);
    };
    const settled = () => {
      clearInterval(peer.search);
      peer.search = 0;
    };
    const found = () => pc.iceConnectionState === "connected" || pc.iceConnectionState === "completed";
    // restart restarts ICE (RFC 8445, section 9); what is above it goes on.
    const restart = async () => {
      pc.restartIce();
      await describe("offer");
    };
    const accept = async (s) => {
      if (s.kind === "candidate") {
        await pc.addIceCandidate({ candidate: s.candidate, sdpMid: s.mid, sdpMLineIndex: s.line });
        return;
      }
      if (s.kind === "offer" && pc.signalingState !== "stable" && offers) return; // both move: ours counts
      if (s.kind === "offer" && up) search(false);
      await pc.setRemoteDescription({ type: s.kind, sdp: s.sdp });
      if (s.kind === "offer") await describe("answer");
    };
    pc.onicecandidate = ({ candidate: c }) => {
      if (!c?.candidate) return;
      const told = () => say({ kind: "candidate", candidate: c.candidate, mid: c.sdpMid, line: c.sdpMLineIndex });
      if (c.type !== "relay" || up) told(); // a link that moves waits for nothing
      else setTimeout(() => pc.localDescription?.sdp.includes(`a=ice-ufrag:${c.usernameFragment}`) && told(), later); // not from before a restart
    };
    const ended = (state) => {
      if (!peer.search && (state === "disconnected" || state === "failed" || state === "closed")) tell("gone", { why: `the connection ${state}` });
    };
    let up = false; // there was a path
    pc.oniceconnectionstatechange = () => {
      if (found()) {
        up = true;
        settled();
      }
      ended(pc.iceConnectionState);
    };
    pc.onconnectionstatechange = () => ended(pc.connectionState);

    const dc = pc.createDataChannel(label, { negotiated: true, id: channel });
    let moved = false;
    if (!this.#bridged) {
      try {
        tell("channel", { channel: dc }, [dc]); // must happen before anything else does
        moved = true;
      } catch {
        // This browser cannot transfer it.
      }
    }
    if (!moved) {
      const port = bridge(dc);
      tell("bridge", { port }, [port]);
    }
    if (offers) chain = chain.then(() => describe("offer")).catch(refuse);
  }
}

// bridge serves a data channel that has to stay on the page over a MessagePort. The worker
// sends buffers, a threshold or a close; the page sends buffers and the queue's length.
function bridge(dc) {
  const { port1: here, port2: there } = new MessageChannel();
  let taken = 0; // bytes received from the worker
  const report = (event) => here.postMessage({ event, taken, queued: dc.bufferedAmount, state: dc.readyState });
  dc.binaryType = "arraybuffer";
  dc.onopen = () => report("open");
  dc.onbufferedamountlow = () => report("low");
  dc.onmessage = ({ data }) => here.postMessage(data, typeof data === "string" ? [] : [data]);
  dc.onclose = () => report("close");
  here.onmessage = ({ data }) => {
    if (data instanceof ArrayBuffer) {
      taken += data.byteLength;
      if (dc.readyState === "open") dc.send(data);
      report("sent");
    } else if (data.threshold !== undefined) dc.bufferedAmountLowThreshold = data.threshold;
    else if (data.close) setTimeout(() => dc.close(), dc.bufferedAmount ? linger : 0);
  };
  return there;
}
