// The playground: panes side by side, one composer that sends to all of them, parameters, and each request as code.
import { asCurl, asPython } from "./code.js";
import { Pane } from "./pane.js";
import { Parameters } from "./parameters.js";
import { Socket } from "./socket.js";
import { config, say } from "./texts.js";

const KEPT = "playground"; // in this tab alone, until it is closed
const MAX_PANES = 4;
const part = (name) => document.querySelector(`[data-${name}]`);

class Page {
  constructor() {
    const kept = remembered();
    this.panes = [];
    this.tongue = "curl";
    this.message = document.getElementById("message");
    this.parameters = new Parameters(part("parameters"), { kept: kept.parameters, changed: () => this.remember() });
    this.socket = new Socket({ path: config.socket, changed: (state, seconds) => this.showConnection(state, seconds) });
    for (const one of panesToOpen(kept)) this.add(one);
    this.listen();
    this.changed();
  }

  listen() {
    part("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(this.message.value);
    });
    this.message.addEventListener("keydown", (event) => {
      // While an input method composes, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send(this.message.value);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    });
    part("stop").addEventListener("click", () => this.stop());
    part("clear").addEventListener("click", () => this.clear());
    part("add").addEventListener("click", () => this.addBeside());
    part("reconnect").addEventListener("click", () => this.socket.connect());
    part("settings").addEventListener("click", ({ currentTarget }) => {
      const isOpen = part("parameters").classList.toggle("open");
      currentTarget.setAttribute("aria-expanded", String(isOpen));
      if (isOpen) part("parameters").scrollIntoView({ block: "nearest" });
    });
    part("code").addEventListener("click", () => this.showNextAsCode());
    part("close").addEventListener("click", () => part("code-dialog").close());
    for (const button of document.querySelectorAll("[data-tongue]")) {
      button.addEventListener("click", () => {
        this.tongue = button.dataset.tongue;
        this.writeCode();
      });
    }
  }

  // What a pane asks of the page.
  system() {
    return this.parameters.system;
  }

  fields() {
    return this.parameters.read();
  }

  announce(text) {
    part("announce").textContent = text;
  }

  remove(pane) {
    pane.clear();
    pane.element.remove();
    this.panes.splice(this.panes.indexOf(pane), 1);
    this.changed();
  }

  changed() {
    const isBusy = this.panes.some((pane) => pane.isBusy);
    const isMany = this.panes.length > 1;
    part("send").disabled = isBusy;
    part("stop").disabled = !isBusy;
    part("send-label").textContent = isMany ? say("sendToAll", { number: this.panes.length }) : say("send");
    part("add").hidden = config.models.length < 2 || this.panes.length >= MAX_PANES;
    for (const pane of this.panes) pane.part("remove").hidden = !isMany;
    this.remember();
  }

  send(text) {
    if (!text.trim() || this.panes.some((pane) => pane.isBusy)) return;
    const fields = this.fields();
    if (fields === null) return;
    for (const pane of this.panes) pane.send(text, fields);
    this.message.value = "";
    this.message.focus();
  }

  stop() {
    for (const pane of this.panes) pane.stop();
  }

  clear() {
    for (const pane of this.panes) pane.clear();
    this.announce(say("cleared"));
    this.changed();
    this.message.focus();
  }

  add(kept) {
    const pane = new Pane(this, kept);
    this.panes.push(pane);
    part("panes").append(pane.element);
  }

  // The first model that is not shown yet.
  addBeside() {
    const shown = new Set(this.panes.map((pane) => pane.model.name));
    this.add({ model: (config.models.find((one) => !shown.has(one.name)) ?? config.models[0]).name });
    this.changed();
  }

  showConnection(state, seconds) {
    const line = part("connection");
    line.querySelector("span").textContent = say(state, { seconds });
    line.querySelector(".dot").className = `dot ${{ open: "ok", lost: "warn", signedOut: "bad" }[state] ?? ""}`;
    part("sign-in").hidden = state !== "signedOut";
    part("reconnect").hidden = state !== "lost";
  }

  // What would be sent now; with nothing written, what was sent last.
  showNextAsCode() {
    const fields = this.fields();
    if (fields === null) return;
    const [pane] = this.panes;
    const last = pane.messages.findLast((one) => one.request)?.request;
    const draft = this.message.value.trim() ? this.message.value : "";
    this.showCode(draft || !last ? pane.request(fields, draft || "Hello") : last);
  }

  showCode(request) {
    this.shown = request;
    this.writeCode();
    part("code-dialog").showModal();
  }

  writeCode() {
    document.getElementById("code-text").textContent = (this.tongue === "curl" ? asCurl : asPython)(this.shown);
    for (const button of document.querySelectorAll("[data-tongue]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tongue === this.tongue));
    }
  }

  remember() {
    const panes = this.panes.map((pane) => ({
      model: pane.model.name,
      messages: pane.messages.map(({ pieces, ...message }) => message),
    }));
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ person: config.person, parameters: this.parameters?.save(), panes }));
    } catch {
      sessionStorage.removeItem(KEPT); // the conversation has outgrown what a tab may keep
    }
  }
}

// What this person had here before the page was left; an answer that was cut off by that counts as stopped.
function remembered() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
  if (kept.person !== config.person) return {};
  for (const { messages } of kept.panes) {
    for (const one of messages) one.isStopped ||= one.role === "assistant" && !one.reason && !one.failure;
  }
  return kept;
}

// Those that the address asks for; their conversations go on where the same panes were open before.
function panesToOpen({ panes = [] }) {
  if (!config.panes.length) return panes.length ? panes : [{}];
  return config.panes.map((model, place) => (panes[place]?.model === model ? panes[place] : { model }));
}

new Page();
