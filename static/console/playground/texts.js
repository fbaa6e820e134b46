// What the page says, in the person's language: the server sends the texts, the browser writes the figures.
export const config = JSON.parse(document.getElementById("playground-config").textContent);
const language = document.documentElement.lang;

export function say(name, values = {}) {
  return config.texts[name].replace(/%\((\w+)\)s/g, (whole, key) => values[key]);
}

export function failure(code) {
  return config.texts[`error:${code}`] ?? config.texts.error;
}

export function number(value, decimals = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: decimals }).format(value);
}

export function duration(seconds) {
  return seconds < 1 ? say("milliseconds", { number: number(seconds * 1000) }) : say("seconds", { number: number(seconds, 2) });
}

// A copy of a <template>'s element.
export function pattern(name) {
  return document.getElementById(`${name}-pattern`).content.firstElementChild.cloneNode(true);
}
