// One WebSocket for all panes, a lane for each (docs/websocket.md). It opens by itself and, when it is lost, again:
// after half a second, then ever later, up to fifteen seconds.
const FIRST_MS = 500;
const LONGEST_MS = 15000;
const RESTING = [1000, 4008]; // it idled, or lived its hour: the next message opens another
const NO_SESSION = 4401;

export class Socket {
  // changed(state, seconds): "connecting", "open", "asleep", "lost" (next try in `seconds`), "signedOut".
  constructor({ path, changed }) {
    this.url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
    this.changed = changed;
    this.lanes = new Map(); // lane -> whoever hears its frames
    this.outbox = new Map(); // lane -> what is said once the socket is open
    this.failures = 0;
    window.addEventListener("online", () => this.timer && this.connect());
    document.addEventListener("visibilitychange", () => document.hidden || (this.timer && this.connect()));
    this.connect();
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    this.changed("connecting");
    const socket = new WebSocket(this.url);
    let hasOpened = false;
    socket.addEventListener("open", () => {
      hasOpened = true;
      this.failures = 0;
      this.changed("open");
      for (const text of this.outbox.values()) socket.send(text);
      this.outbox.clear();
    });
    socket.addEventListener("message", (event) => this.hear(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.closed(event, hasOpened));
    this.socket = socket;
  }

  // hearer: {chunk(chunk), done(frame), cancelled(), failed({status, retry_after_ms, error})}
  ask(lane, body, hearer) {
    this.lanes.set(lane, hearer);
    const text = JSON.stringify({ type: "response.create", stream_id: lane, ...body });
    if (this.isOpen) return this.socket.send(text);
    this.outbox.set(lane, text);
    this.connect();
  }

  cancel(lane) {
    if (this.outbox.delete(lane) || !this.isOpen) this.end(lane, "cancelled");
    else if (this.lanes.has(lane)) this.socket.send(JSON.stringify({ type: "response.cancel", stream_id: lane }));
  }

  hear(frame) {
    const lane = frame.stream_id;
    switch (frame.type) {
      case "chat.completion.chunk":
        this.lanes.get(lane)?.chunk(frame.chunk);
        break;
      case "chat.completion.done":
        this.end(lane, "done", frame);
        break;
      case "chat.completion.cancelled":
        this.end(lane, "cancelled");
        break;
      case "error":
        // "Nothing to cancel": the answer ended while the cancel was on its way.
        if (frame.error.code !== "no_active_response") this.end(lane, "failed", frame);
    }
  }

  end(lane, how, frame) {
    const hearer = this.lanes.get(lane);
    this.lanes.delete(lane);
    hearer?.[how](frame);
  }

  async closed({ code }, hasOpened) {
    for (const lane of [...this.lanes.keys()]) {
      if (!this.outbox.has(lane)) this.end(lane, "failed", { error: { code: "connection_lost" } });
    }
    if ((code === NO_SESSION || !hasOpened) && !(await hasSession())) return this.signedOut();
    if (hasOpened && RESTING.includes(code) && !this.outbox.size) return this.changed("asleep");
    const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.failures++) * (0.75 + Math.random() / 2);
    this.timer = setTimeout(() => this.connect(), wait);
    this.changed("lost", Math.max(1, Math.round(wait / 1000)));
  }

  signedOut() {
    this.outbox.clear();
    for (const lane of [...this.lanes.keys()]) this.end(lane, "failed", { error: { code: "not_signed_in" } });
    this.changed("signedOut");
  }
}

// A refused handshake tells a script nothing, but this page without a session is a redirect to sign-in.
async function hasSession() {
  const answer = await fetch(location.pathname, { method: "HEAD", redirect: "manual" }).catch(() => null);
  return answer?.type !== "opaqueredirect";
}
