// One WebSocket for all panes, a stream for each (docs/websocket.md). It opens by itself and, when it is lost, again:
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
    this.streams = new Map(); // stream -> whoever hears its frames
    this.outbox = new Map(); // stream -> what is said once the socket is open
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
  ask(stream, body, hearer) {
    this.streams.set(stream, hearer);
    const text = JSON.stringify({ type: "response.create", stream_id: stream, ...body });
    if (this.isOpen) return this.socket.send(text);
    this.outbox.set(stream, text);
    this.connect();
  }

  cancel(stream) {
    if (this.outbox.delete(stream) || !this.isOpen) this.end(stream, "cancelled");
    else if (this.streams.has(stream)) this.socket.send(JSON.stringify({ type: "response.cancel", stream_id: stream }));
  }

  hear(frame) {
    const stream = frame.stream_id;
    switch (frame.type) {
      case "chat.completion.chunk":
        this.streams.get(stream)?.chunk(frame.chunk);
        break;
      case "chat.completion.done":
        this.end(stream, "done", frame);
        break;
      case "chat.completion.cancelled":
        this.end(stream, "cancelled");
        break;
      case "error":
        // "Nothing to cancel": the answer ended while the cancel was on its way.
        if (frame.error.code !== "no_active_response") this.end(stream, "failed", frame);
    }
  }

  end(stream, how, frame) {
    const hearer = this.streams.get(stream);
    this.streams.delete(stream);
    hearer?.[how](frame);
  }

  async closed({ code }, hasOpened) {
    for (const stream of [...this.streams.keys()]) {
      if (!this.outbox.has(stream)) this.end(stream, "failed", { error: { code: "connection_lost" } });
    }
    if ((code === NO_SESSION || !hasOpened) && !(await hasSession())) return this.signedOut();
    if (hasOpened && RESTING.includes(code) && !this.outbox.size) return this.changed("asleep");
    const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.failures++) * (0.75 + Math.random() / 2);
    this.timer = setTimeout(() => this.connect(), wait);
    this.changed("lost", Math.max(1, Math.round(wait / 1000)));
  }

  signedOut() {
    this.outbox.clear();
    for (const stream of [...this.streams.keys()]) this.end(stream, "failed", { error: { code: "not_signed_in" } });
    this.changed("signedOut");
  }
}

// A refused handshake tells a script nothing, but this page without a session is a redirect to sign-in.
async function hasSession() {
  const answer = await fetch(location.pathname, { method: "HEAD", redirect: "manual" }).catch(() => null);
  return answer?.type !== "opaqueredirect";
}
