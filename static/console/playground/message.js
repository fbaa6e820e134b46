// One message of a conversation and what can be done with it. An answer grows as plain text while it streams; when it
// has ended it is shown as markdown, or token by token where their probabilities were asked for.
import { toClipboard } from "../copy.js";
import { rendered } from "./markdown.js";
import { withOdds } from "./odds.js";
import { config, duration, failure, number, pattern, say } from "./texts.js";

export class MessageView {
  // message: {role, content} and of an answer {request, id, usage, timings, reason, pieces, failure, isStopped}.
  // actions: what the pane does: {edited(content, {isSentAgain}), again(), code()}
  constructor(message, { model, actions }) {
    this.message = message;
    this.actions = actions;
    this.isShowingOdds = true;
    this.element = pattern("message");
    this.element.classList.add(message.role);
    this.part("who").textContent = message.role === "user" ? say("you") : model;
    this.part("actions").addEventListener("click", (event) => this.do(event.target.closest("[data-action]")?.dataset.action));
    this.show();
  }

  get isAnswer() {
    return this.message.role === "assistant";
  }

  part(name) {
    return this.element.querySelector(`[data-${name}]`);
  }

  action(name) {
    return this.element.querySelector(`[data-action=${name}]`);
  }

  begin() {
    this.text = document.createTextNode("");
    this.part("body").replaceChildren(this.text);
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
    this.part("actions").hidden = true;
  }

  grow(piece) {
    this.message.content += piece;
    this.text.appendData(piece);
  }

  end() {
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
    this.show();
  }

  show() {
    const { content, pieces } = this.message;
    const hasOdds = Boolean(pieces?.length);
    const body = this.part("body");
    if (!this.isAnswer) body.textContent = content;
    else if (hasOdds && this.isShowingOdds) body.replaceChildren(withOdds(pieces, this.action("odds").title, content));
    else body.replaceChildren(rendered(content));
    this.part("actions").hidden = false;
    this.action("odds").hidden = !hasOdds;
    this.action("odds").setAttribute("aria-pressed", String(this.isShowingOdds));
    this.action("code").hidden = !this.message.request;
    this.action("again").hidden = !this.isAnswer;
    this.showRequest();
    this.showEnding();
    this.showMeter();
  }

  showRequest() {
    const link = this.action("request");
    link.hidden = !this.message.id;
    if (!link.hidden) link.href = config.requestPage.replace("REQUEST-ID", encodeURIComponent(this.message.id));
  }

  showEnding() {
    const { content, reason, stopReason, isStopped, failure: failed } = this.message;
    const ending = this.part("ending");
    ending.replaceChildren();
    if (failed) ending.append(this.notice(failed));
    else if (isStopped) ending.textContent = say("stopped");
    else if (reason === "length") ending.textContent = say(stopReason === "budget" ? "cutBudget" : "cutLength");
    else if (reason && !content) ending.textContent = say("emptyAnswer");
    ending.hidden = !ending.hasChildNodes();
  }

  notice(failed) {
    const notice = pattern("failure");
    const again = failed.retryMs ? say("retryIn", { seconds: number(Math.ceil(failed.retryMs / 1000)) }) : "";
    notice.querySelector("[data-what]").textContent = failure(failed.code);
    notice.querySelector("[data-detail]").textContent = again || failed.message || "";
    notice.querySelector("[data-code]").textContent = again ? [failed.code, failed.message].filter(Boolean).join(": ") : failed.code;
    notice.querySelector("[data-retry]").addEventListener("click", () => this.actions.again());
    return notice;
  }

  // By the engine's own clock and count.
  showMeter() {
    const { usage, timings } = this.message;
    this.part("meter").hidden = !usage;
    if (!usage) return;
    const { first_token_seconds: first, total_seconds: total } = timings;
    const seconds = total - first;
    const figures = {
      first: first === null ? "–" : duration(first),
      speed: usage.completion_tokens > 1 && seconds > 0 ? say("perSecond", { number: number((usage.completion_tokens - 1) / seconds, 1) }) : "–",
      in: number(usage.prompt_tokens),
      cached: number(usage.prompt_tokens_details.cached_tokens),
      out: number(usage.completion_tokens),
    };
    for (const [name, figure] of Object.entries(figures)) this.part(name).textContent = figure;
  }

  async do(action) {
    if (action === "edit") this.edit();
    else if (action === "again") this.actions.again();
    else if (action === "code") this.actions.code();
    else if (action === "copy") {
      await toClipboard(this.message.content).catch(() => null);
      this.action("copy").classList.add("done");
      setTimeout(() => this.action("copy").classList.remove("done"), 1500);
    } else if (action === "odds") {
      this.isShowingOdds = !this.isShowingOdds;
      this.show();
    }
  }

  edit() {
    const editor = pattern("editor");
    const area = editor.querySelector("textarea");
    area.value = this.message.content;
    area.rows = Math.min(12, Math.max(2, area.value.split("\n").length));
    editor.querySelector("[data-resend]").hidden = this.isAnswer;
    const keep = (isSentAgain) => area.value.trim() && this.actions.edited(area.value, { isSentAgain });
    editor.addEventListener("submit", (event) => {
      event.preventDefault();
      keep(!this.isAnswer);
    });
    editor.querySelector("[data-keep]").addEventListener("click", () => keep(false));
    editor.querySelector("[data-cancel]").addEventListener("click", () => this.show());
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.show();
        this.action("edit").focus();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) editor.requestSubmit();
    });
    this.part("body").replaceChildren(editor);
    this.part("actions").hidden = true;
    area.focus();
  }
}
