// The panels page: one request for all panels that are seen, or frames of Grafana with a token that is kept fresh.
import { Chart, swatch } from "./chart.js";
import { ask } from "./contact.js";
import { timeOfDay, written } from "./units.js";

const ROWS_SHOWN = 24;

function cell(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  if (name === "th") made.scope = "col";
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

// A frame of another origin, which may run its own scripts there and nothing here. Its address comes first: a sandbox
// around an empty frame would be one around our own origin.
function framed(address, title) {
  const frame = document.createElement("iframe");
  Object.assign(frame, { src: address, title, loading: "lazy", referrerPolicy: "no-referrer" });
  frame.setAttribute("sandbox", "allow-scripts allow-same-origin");
  return frame;
}

// One card: its chart, its legend, its table.
class Panel {
  constructor(root) {
    this.root = root;
    this.unit = root.dataset.unit;
    this.chart = new Chart(root.querySelector("[data-chart]"), this.unit);
    this.part("values").addEventListener("toggle", () => this.latest && this.tabulate());
  }

  part(name) {
    return this.root.querySelector(`[data-${name}]`);
  }

  show(latest) {
    this.latest = latest;
    this.part("waiting")?.remove();
    this.chart.show(latest);
    const hasLine = latest.series.length > 0;
    this.part("legend").hidden = this.part("values").hidden = !hasLine;
    this.part("left-out").hidden = latest.left_out === 0;
    this.part("left-out").querySelector("span").textContent = latest.left_out;
    this.part("legend").tBodies[0].replaceChildren(...latest.series.map((one, place) => this.legend(one, place)));
    this.tabulate();
  }

  legend({ name, values }, place) {
    const present = values.filter((value) => value !== null);
    const mean = present.reduce((sum, value) => sum + value, 0) / present.length;
    const title = cell("td", name);
    title.prepend(swatch(place));
    return row(title, ...[present.at(-1), mean, Math.max(...present)].map((value) => cell("td", written(this.unit, value), "num")));
  }

  // The newest first; made only while somebody has it open.
  tabulate() {
    const details = this.part("values");
    if (!details.open) return;
    const { times, series } = this.latest;
    const every = Math.max(1, Math.ceil(times.length / ROWS_SHOWN));
    const shown = times.map((time, index) => [time, index]).reverse().filter((one, place) => place % every === 0);
    details.querySelector("thead").replaceChildren(row(cell("th", ""), ...series.map((one) => cell("th", one.name, "num"))));
    details.querySelector("tbody").replaceChildren(
      ...shown.map(([time, index]) => row(cell("td", timeOfDay(time, "2-digit")), ...series.map((one) => cell("td", written(this.unit, one.values[index]), "num")))),
    );
  }
}

document.addEventListener("alpine:init", () => {
  Alpine.data("panelFilter", () => ({
    send() {
      this.$root.requestSubmit();
    },
  }));

  Alpine.data("panels", () => ({
    init() {
      this.panels = new Map([...this.$el.querySelectorAll("[data-panel]")].map((root) => [root.dataset.panel, new Panel(root)]));
      this.seen = new Set();
      this.observer = new IntersectionObserver((entries) => this.looked(entries), { rootMargin: "200px" });
      for (const { root } of this.panels.values()) this.observer.observe(root);
      this.timer = setInterval(() => document.hidden || this.refresh([...this.seen]), Number(this.$el.dataset.every) * 1000);
    },

    destroy() {
      clearInterval(this.timer);
      this.observer.disconnect();
      for (const panel of this.panels.values()) panel.chart.end();
    },

    looked(entries) {
      const come = [];
      for (const { target, isIntersecting } of entries) {
        const id = target.dataset.panel;
        if (isIntersecting && !this.seen.has(id)) come.push(id);
        this.seen[isIntersecting ? "add" : "delete"](id);
      }
      this.refresh(come);
    },

    async refresh(ids) {
      if (!ids.length) return;
      const asked = ids.map((id) => `&panel=${encodeURIComponent(id)}`).join("");
      const answer = await ask(this.$root.dataset.url + asked);
      if (!answer) return;
      const { source, notice, panels } = await answer.json();
      const box = this.$root.querySelector("[data-notice]");
      box.hidden = !notice;
      box.querySelector("span").textContent = notice;
      for (const line of this.$root.querySelectorAll("[data-source]")) line.hidden = line.dataset.source !== source;
      const begins = Math.min(...panels.map((one) => one.begins ?? Infinity));
      const since = this.$root.querySelector("[data-since]");
      since.hidden = !Number.isFinite(begins);
      since.querySelector("b").textContent = Number.isFinite(begins) ? `${timeOfDay(begins, "2-digit")} UTC` : "";
      for (const latest of panels) this.panels.get(latest.id)?.show(latest);
    },
  }));

  Alpine.data("frames", () => ({
    init() {
      this.refresh();
      this.again = () => this.refresh();
      document.addEventListener("theme-changed", this.again);
    },

    destroy() {
      clearTimeout(this.timer);
      document.removeEventListener("theme-changed", this.again);
    },

    async refresh() {
      clearTimeout(this.timer);
      const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
      const answer = await ask(`${this.$root.dataset.url}&theme=${isDark ? "dark" : "light"}`);
      if (!answer) {
        this.timer = setTimeout(() => this.refresh(), 15_000);
        return;
      }
      const { frames, seconds } = await answer.json();
      for (const place of this.$root.querySelectorAll("[data-frame]")) {
        const address = frames[place.dataset.frame];
        if (place.firstElementChild) place.firstElementChild.src = address;
        else place.append(framed(address, place.dataset.title));
      }
      this.timer = setTimeout(() => this.refresh(), seconds * 1000);
    },
  }));
});
