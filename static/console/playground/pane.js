// A conversation with one model. Each answer has a stream of its own on the page's socket, so that nothing which still
// arrives for an answer that was dropped can end up in the next one.
import { MessageView } from "./message.js";
import { config, number, pattern, say } from "./texts.js";

const NEAR = 48; // pixels from the end within which the log follows the stream
let numAsked = 0;

// A base model has no chat template; of one that is not loaded nobody knows yet.
const firstThatChats = () => config.models.find((one) => one.chat) ?? config.models.find((one) => one.chat !== false) ?? config.models[0];

export class Pane {
  // page: {socket, changed(), announce(text), fields(), system(), showCode(body)}
  constructor(page, { model, messages = [] }) {
    this.page = page;
    this.element = pattern("pane");
    this.views = [];
    this.stream = null;
    this.isFollowing = true;
    this.log = this.part("log");
    this.log.addEventListener("scroll", () => this.scrolled());
    this.part("remove").addEventListener("click", () => page.remove(this));
    for (const starter of this.element.querySelectorAll("[data-starter]")) {
      starter.addEventListener("click", () => page.send(starter.textContent));
    }
    this.fillChoice();
    this.choose(config.models.find((one) => one.name === model) ?? firstThatChats());
    for (const message of messages) this.add(message);
  }

  part(name) {
    return this.element.querySelector(`[data-${name}]`);
  }

  get isBusy() {
    return this.stream !== null;
  }

  get messages() {
    return this.views.map((view) => view.message);
  }

  fillChoice() {
    const select = this.part("model");
    select.append(...config.models.map((one) => new Option(one.context ? one.label : `${one.label} (${say("notLoaded")})`, one.name)));
    select.addEventListener("change", () => {
      this.choose(config.models.find((one) => one.name === select.value));
      this.page.changed();
    });
    this.part("choice").hidden = config.models.length < 2;
    this.part("name").classList.toggle("sr-only", config.models.length > 1);
  }

  choose(model) {
    this.model = model;
    this.part("model").value = model.name;
    this.part("model").title = model.name;
    this.part("name").textContent = model.name;
    this.part("revision").textContent = model.name.includes("@") ? "" : model.revision;
    this.part("share").textContent = model.share;
    this.part("share").hidden = !model.share;
    this.part("revision").title = model.context ? say("context", { number: number(model.context) }) : say("notLoaded");
    this.log.setAttribute("aria-label", model.name);
    const cannotChat = model.chat === false;
    this.part("no-chat").hidden = !cannotChat;
    this.part("hint").hidden = this.part("starters").hidden = cannotChat;
    this.element.querySelector(".swatch").className = `swatch ${model.colour}`;
  }

  add(message) {
    const view = new MessageView(message, {
      model: this.model.name,
      actions: {
        edited: (content, { isSentAgain }) => this.edited(view, content, isSentAgain),
        again: () => this.answerFrom(this.views.indexOf(view)),
        code: () => this.page.showCode(message.request),
      },
    });
    this.views.push(view);
    this.part("messages").append(view.element);
    this.part("empty").hidden = true;
    this.follow();
    return view;
  }

  send(text, fields) {
    this.isFollowing = true;
    this.add({ role: "user", content: text });
    this.answer(fields);
  }

  // The request that would be sent now, with `draft` as its last message.
  request(fields, draft) {
    const system = this.page.system();
    const messages = this.messages.filter((one) => one.content).map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    if (draft) messages.push({ role: "user", content: draft });
    return { model: this.model.name, messages, ...fields };
  }

  answer(fields) {
    const request = this.request(fields);
    const message = { role: "assistant", content: "", request };
    const view = this.add(message);
    this.stream = `answer-${++numAsked}`;
    view.begin();
    this.state("waiting");
    this.page.socket.ask(this.stream, request, {
      chunk: (chunk) => this.grow(view, chunk),
      done: ({ usage, timings }) => this.end(view, { usage, timings }),
      cancelled: () => this.end(view, { isStopped: true }),
      failed: ({ error, retry_after_ms: retryMs }) => this.end(view, { failure: { ...error, retryMs } }),
    });
    this.page.changed();
  }

  grow(view, { id, choices: [choice] }) {
    const { message } = view;
    message.id = id;
    if (choice.logprobs?.content) (message.pieces ??= []).push(...choice.logprobs.content);
    if (choice.delta.content) {
      if (!message.content) this.state("streaming");
      view.grow(choice.delta.content);
      this.follow();
    }
    if (choice.finish_reason) Object.assign(message, { reason: choice.finish_reason, stopReason: choice.stop_reason });
  }

  end(view, facts) {
    if (!this.views.includes(view)) return; // dropped meanwhile
    Object.assign(view.message, facts);
    this.stream = null;
    this.state("");
    view.end();
    this.follow();
    if (facts.usage) this.page.announce(`${say("answer", { model: this.model.name })}: ${view.element.querySelector("[data-body]").textContent}`);
    this.page.changed();
  }

  stop() {
    if (this.stream) this.page.socket.cancel(this.stream);
  }

  edited(view, content, isSentAgain) {
    view.message.content = content;
    delete view.message.pieces; // they are of what the model wrote
    view.show();
    if (isSentAgain) this.answerFrom(this.views.indexOf(view) + 1);
    else this.page.changed();
  }

  // Drop what stands from `place` on, and answer what is left.
  answerFrom(place) {
    const fields = this.page.fields();
    if (fields === null || this.isBusy) return;
    this.cut(place);
    this.isFollowing = true;
    this.answer(fields);
  }

  clear() {
    this.stop();
    this.stream = null;
    this.state("");
    this.cut(0);
    this.part("empty").hidden = false;
  }

  cut(place) {
    for (const view of this.views.splice(place)) view.element.remove();
  }

  state(name) {
    this.part("state").textContent = name ? say(name) : "";
    this.element.classList.toggle("busy", Boolean(name));
  }

  // Whoever scrolls up is left alone, until they come back to the end.
  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.isFollowing = true;
    else if (scrollTop < this.scrollTop) this.isFollowing = false;
    this.scrollTop = scrollTop;
  }

  follow() {
    if (!this.isFollowing || this.isWaitingForFrame) return;
    this.isWaitingForFrame = true;
    requestAnimationFrame(() => {
      this.isWaitingForFrame = false;
      if (this.isFollowing) this.log.scrollTop = this.log.scrollHeight;
    });
  }
}
