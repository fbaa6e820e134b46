// Tokens with their probabilities: the stronger the mark, the less sure the model was. Hovering over a token, or walking with
// the arrow keys, shows what else it might have written.
const percent = new Intl.NumberFormat(document.documentElement.lang, { style: "percent", maximumFractionDigits: 1 });
const UNSURE = [0.2, 0.5, 0.8]; // less sure than each: marked more strongly

// A character may be spread over several tokens; they are shown together with the last of them.
export function tokensOf(pieces) {
  const decoder = new TextDecoder();
  const tokens = [];
  let held = [];
  for (const piece of pieces) {
    held.push(piece);
    const text = decoder.decode(new Uint8Array(piece.bytes ?? []), { stream: true });
    if (!text) continue;
    tokens.push({ text, probability: Math.exp(held.reduce((sum, one) => sum + one.logprob, 0)), top: piece.top_logprobs });
    held = [];
  }
  return tokens;
}

// `content` is what the answer says: the token that ended it (`<|im_end|>`) is none of its words.
export function withOdds(pieces, label, content) {
  const box = document.createElement("div");
  box.className = "tokens";
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label);
  box.setAttribute("aria-describedby", "odds");
  let said = "";
  for (const token of tokensOf(pieces)) {
    if (said.length >= content.length) break;
    said += token.text;
    const span = document.createElement("span");
    span.textContent = token.text;
    span.className = `doubt-${UNSURE.filter((bound) => token.probability < bound).length}`;
    span.token = token;
    box.append(span);
  }
  box.addEventListener("pointerover", ({ target }) => target.token && show(target));
  box.addEventListener("pointerleave", hide);
  box.addEventListener("blur", hide);
  box.addEventListener("keydown", (event) => walk(box, event));
  return box;
}

function walk(box, event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const spans = [...box.children];
  const here = spans.findIndex((one) => one.classList.contains("here"));
  show(spans[Math.min(spans.length - 1, Math.max(0, here + step))]);
}

function show(span) {
  hide();
  if (!span) return;
  span.classList.add("here");
  const popup = document.getElementById("odds");
  popup.replaceChildren(...span.token.top.map((one) => row(one)));
  popup.hidden = false;
  const at = span.getBoundingClientRect();
  const left = Math.min(at.left, innerWidth - popup.offsetWidth - 12);
  const below = at.bottom + 6 + popup.offsetHeight < innerHeight;
  popup.style.left = `${Math.max(12, left)}px`;
  popup.style.top = `${below ? at.bottom + 6 : at.top - popup.offsetHeight - 6}px`;
}

// A token may be a part of a character: those are told by their bytes.
function named({ token, bytes }) {
  if (token.includes("\uFFFD") && bytes) return bytes.map((one) => one.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  return token.replaceAll("\n", "↵").replaceAll(" ", "␣") || "∅";
}

function row(alternative) {
  const probability = Math.exp(alternative.logprob);
  const line = document.createElement("div");
  const [word, bar, figure] = ["code", "i", "span"].map((name) => document.createElement(name));
  word.textContent = named(alternative);
  bar.style.setProperty("--share", `${100 * probability}%`);
  figure.textContent = percent.format(probability);
  line.append(word, bar, figure);
  return line;
}

function hide() {
  document.querySelectorAll(".tokens .here").forEach((one) => one.classList.remove("here"));
  document.getElementById("odds").hidden = true;
}
