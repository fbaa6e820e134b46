// Whether the server still answers, and as whom. One heartbeat for every page: it keeps the pill, and says in a bar
// when the server is gone, was started anew, ends, or no longer knows this session. What was typed stays where it is.
const EVERY = 2000;
const PATIENCE = 2500; // an answer that takes longer counts as none, until it comes
const GIVE_UP = 15_000;
const RETRY = 3000;
const WORTH_SAYING = 5000; // a shorter gap without a restart is not announced
const SHOWN = 10_000;
const HEADER = "X-Server-Run";
const POSTING = "form[method=post] button:not([type=button]), form[data-compose] button:not([type=button])";

const bar = document.getElementById("contact");
const dialog = document.getElementById("sign-in-again");
const state = { now: "online", answeredAt: Date.now(), lostAt: 0, retryAt: 0, run: null, isAsking: false };
let timer = 0;

export const isOnline = () => state.now === "online" || state.now === "draining";

// A request of a script for figures; null where nothing came, and the bar says so.
export async function ask(url) {
  if (bar && !isOnline()) return null;
  const answer = await fetch(url, { headers: { accept: "application/json" }, redirect: "manual" }).catch(() => null);
  if (!answer || answer.status >= 500 || answer.type === "opaqueredirect") beat();
  return answer?.ok ? answer : null;
}

function parse(header) {
  const [id, startedAt, numLost, person, draining] = header.split(" ");
  return { id, startedAt: Number(startedAt) * 1000, numLost: Number(numLost), person, isDraining: draining === "draining" };
}

function clock(moment) {
  return new Date(moment).toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC" });
}

function fill(part, values) {
  for (const [name, value] of Object.entries(values)) part.querySelector(`[data-${name}]`)?.replaceChildren(String(value));
}

// One of the bar's texts, or none.
function say(name, values = {}) {
  bar.hidden = !name;
  bar.className = `contact ${name}`;
  for (const part of bar.querySelectorAll("[data-when]")) {
    part.hidden = part.dataset.when !== name;
    if (!part.hidden) fill(part, values);
  }
  return bar.querySelector(`[data-when="${name}"]`);
}

// Buttons that would post into nothing are held; those that were disabled before stay so.
function hold(isHeld) {
  document.documentElement.toggleAttribute("data-stale", isHeld && state.now !== "draining");
  for (const button of document.querySelectorAll(POSTING)) {
    if (dialog?.contains(button)) continue;
    if (isHeld && !button.disabled) {
      button.disabled = true;
      button.dataset.held = "";
    } else if (!isHeld && "held" in button.dataset) {
      button.disabled = false;
      delete button.dataset.held;
    }
  }
}

function lose() {
  if (state.now === "lost") return;
  state.now = "lost";
  state.lostAt = Date.now();
  hold(true);
  const pill = document.getElementById("engine-pill");
  if (pill) pill.replaceChildren(Object.assign(document.createElement("i"), { className: "dot hollow" }), bar.dataset.unknown);
  pill?.removeAttribute("title");
  count();
}

function count() {
  if (state.now !== "lost") return;
  const seconds = Math.max(0, Math.ceil((state.retryAt - Date.now()) / 1000));
  const part = say("lost", { since: `${clock(state.answeredAt)} UTC`, seconds });
  part.querySelector("[data-waiting]").hidden = seconds === 0;
  setTimeout(count, 500);
}

function end() {
  if (state.now === "ended") return;
  state.now = "ended";
  hold(true);
  say("ended");
  if (dialog && !dialog.open && !document.querySelector("dialog[open]")) dialog.showModal();
}

// The answer says which run of the server it is; the first one heard is the page's own.
function come(header) {
  const before = state.run;
  const run = (state.run = header ? parse(header) : before);
  const wasAway = state.now === "lost";
  const wasEnded = state.now === "ended";
  const away = Date.now() - state.answeredAt;
  state.answeredAt = Date.now();
  if (before && run.person !== before.person) return location.reload();
  const isNew = before && run.id !== before.id && run.startedAt >= before.startedAt;
  if (run?.isDraining) {
    state.now = "draining";
    hold(true);
    say("draining");
    return;
  }
  if (state.now !== "online") {
    state.now = "online";
    hold(false);
    renewTokens();
    if (dialog?.open) dialog.close();
    document.dispatchEvent(new CustomEvent("contact-back"));
  }
  if (isNew || (wasAway && away >= WORTH_SAYING)) {
    const part = say("back", { away: Math.round(away / 1000), at: `${clock(run.startedAt)} UTC`, lost: run.numLost });
    part.querySelector("[data-restarted]").hidden = !isNew;
    part.querySelector("[data-lost-some]").hidden = !(isNew && run.numLost);
    setTimeout(() => bar.classList.contains("back") && say(""), SHOWN);
  } else if (wasAway || wasEnded || bar.classList.contains("draining")) say("");
}

// Signing in anew makes a new token: forms that were open before carry it from now on.
function renewTokens() {
  const token = document.cookie.match(/(?:^|; )(?:csrftoken|__Host-csrf)=([^;]+)/)?.[1];
  if (!token) return;
  for (const input of document.querySelectorAll("input[name=csrfmiddlewaretoken]")) input.value = token;
  document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRFToken": token }));
}

export async function beat() {
  if (!bar || state.isAsking) return;
  clearTimeout(timer);
  state.isAsking = true;
  state.retryAt = Date.now();
  const slow = setTimeout(lose, PATIENCE);
  const signal = AbortSignal.timeout(GIVE_UP);
  try {
    const answer = await fetch(bar.dataset.url, { redirect: "manual", cache: "no-store", signal });
    const pill = answer.ok ? await answer.text() : "";
    clearTimeout(slow);
    if (answer.type === "opaqueredirect") end();
    else if (!answer.ok) lose();
    else {
      come(answer.headers.get(HEADER));
      show(pill);
    }
  } catch {
    lose();
  } finally {
    clearTimeout(slow);
    state.isAsking = false;
  }
  const pause = state.now === "lost" ? RETRY : EVERY;
  state.retryAt = Date.now() + pause;
  timer = setTimeout(() => document.hidden || beat(), pause);
}

function show(html) {
  const pill = document.getElementById("engine-pill");
  if (!pill) return;
  const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
  if (fresh && !fresh.isEqualNode(pill)) pill.replaceWith(document.adoptNode(fresh));
}

async function signIn(event) {
  event.preventDefault();
  const form = event.target;
  const failed = form.querySelector("[data-failed]");
  failed.hidden = true;
  const { url } = form.dataset;
  // The sign-in page gives the token that its form needs.
  const answer = await fetch(url)
    .then((page) => page.text())
    .then((text) => new DOMParser().parseFromString(text, "text/html").querySelector("input[name=csrfmiddlewaretoken]")?.value)
    .then((token) => {
      const body = new URLSearchParams(new FormData(form));
      body.set("csrfmiddlewaretoken", token ?? "");
      return fetch(url, { method: "POST", body, redirect: "manual" });
    })
    .catch(() => null);
  form.querySelector("[type=password]").value = "";
  failed.hidden = answer?.type === "opaqueredirect";
  beat();
}

// A form that was left alone for long is sent only once the server has answered: else what was typed would be lost.
async function guard(event) {
  const form = event.target;
  if (form.method !== "post" || dialog?.contains(form) || form.hasAttribute("data-safe")) return;
  const isFresh = isOnline() && Date.now() - state.answeredAt < 2 * EVERY + PATIENCE;
  if (isFresh && state.now !== "draining") return;
  event.preventDefault();
  event.stopImmediatePropagation();
  await beat();
  if (state.now === "online" && !state.isAsking) form.requestSubmit(event.submitter);
}

if (bar) {
  if (bar.dataset.run) state.run = parse(bar.dataset.run);
  bar.querySelector("[data-now]").addEventListener("click", beat);
  bar.querySelector("[data-sign-in]").addEventListener("click", () => (dialog ? dialog.showModal() : location.assign(bar.dataset.signInAt)));
  dialog?.querySelector("form").addEventListener("submit", signIn);
  dialog?.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  document.addEventListener("submit", guard, true);
  document.addEventListener("visibilitychange", () => document.hidden || beat());
  for (const name of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(name, beat);
  document.addEventListener("htmx:responseError", (event) => event.detail.xhr.status >= 500 && beat());
  document.addEventListener("htmx:afterRequest", (event) => event.detail.xhr?.getResponseHeader("X-Session-Ended") && end());
  timer = setTimeout(beat, EVERY);
}
