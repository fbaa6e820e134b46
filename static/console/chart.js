// A time chart of {times, series: [{name, values}]}: lines in the colours of their places, a tooltip under the cursor.
import uPlot from "uplot";
import { ask } from "./contact.js";
import { onAxis, timeOfDay, written } from "./units.js";

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const COLOURS = ["a", "b", "c", "d", "e", "f", "g", "h"];

function timesOfDay(plot, times) {
  const isShort = times.length > 1 && times[1] - times[0] < 60;
  return times.map((time) => timeOfDay(time, isShort ? "2-digit" : undefined));
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

export const swatch = (place) => element("i", "", `swatch ${COLOURS[place % COLOURS.length]}`);

// What stands at the cursor, in a box beside it.
function tooltip(unit) {
  const box = element("div", "", "chart-tip");
  box.hidden = true;
  return {
    hooks: {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const { idx: index, left } = plot.cursor;
        box.hidden = index === null || index === undefined || left < 0;
        if (box.hidden) return;
        const rows = plot.series.slice(1).map((line, place) => {
          const row = element("div");
          row.append(swatch(place), element("span", line.label), element("b", written(unit, plot.data[place + 1][index])));
          return row;
        });
        box.replaceChildren(element("small", timeOfDay(plot.data[0][index], "2-digit")), ...rows);
        const isRight = left > plot.over.clientWidth / 2;
        box.style.left = isRight ? "" : `${left + 12}px`;
        box.style.right = isRight ? `${plot.over.clientWidth - left + 12}px` : "";
      },
    },
  };
}

function options(root, series, unit) {
  const axis = { stroke: token("--mute"), font: "12px system-ui", ticks: { show: false } };
  return {
    width: root.clientWidth,
    height: Number(root.dataset.height ?? 200),
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    plugins: [tooltip(unit)],
    scales: { y: { range: (plot, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, space: 76, size: 30, values: timesOfDay },
      { ...axis, grid: { stroke: token("--color-line"), width: 1 }, size: 64, values: (plot, values) => values.map((value) => onAxis(unit, value)) },
    ],
    series: [
      {},
      ...series.map(({ name, values }, place) => ({
        label: name,
        stroke: token(`--series-${COLOURS[place % COLOURS.length]}`),
        width: 2,
        fill: series.length === 1 ? `${token("--series-a")}1a` : undefined,
        spanGaps: false,
        points: { show: values.filter((value) => value !== null).length === 1 },
      })),
    ],
  };
}

const names = ({ series }) => JSON.stringify(series.map((one) => one.name));

// Draws into `root` and redraws when the data, the width or the theme changes.
export class Chart {
  constructor(root, unit) {
    Object.assign(this, { root, unit, plot: null, latest: null });
    this.observer = new ResizeObserver(() => this.plot?.setSize({ width: root.clientWidth, height: this.plot.height }));
    this.observer.observe(root);
    this.repaint = () => this.latest && this.draw();
    document.addEventListener("theme-changed", this.repaint);
  }

  show(latest) {
    const isSame = this.latest && this.plot && names(this.latest) === names(latest);
    this.latest = latest;
    const empty = this.root.querySelector("[data-empty]");
    const hasLine = latest.times.length > 1 && latest.series.length > 0;
    if (empty) empty.hidden = hasLine;
    if (isSame && hasLine) this.plot.setData([latest.times, ...latest.series.map((one) => one.values)]);
    else this.draw();
  }

  draw() {
    const { times, series } = this.latest;
    this.plot?.destroy();
    this.plot = null;
    if (times.length < 2 || !series.length) return;
    this.plot = new uPlot(options(this.root, series, this.unit), [times, ...series.map((one) => one.values)], this.root);
  }

  end() {
    this.observer.disconnect();
    document.removeEventListener("theme-changed", this.repaint);
    this.plot?.destroy();
  }
}

// One panel by itself: data-url answers like the panels' page, and is asked every data-every seconds while it is seen.
document.addEventListener("alpine:init", () => {
  Alpine.data("chart", () => ({
    init() {
      this.chart = new Chart(this.$el, this.$el.dataset.unit ?? "COUNT");
      this.refresh();
      const every = Number(this.$el.dataset.every ?? 0);
      if (every) this.timer = setInterval(() => document.hidden || this.refresh(), every * 1000);
    },

    destroy() {
      clearInterval(this.timer);
      this.chart.end();
    },

    async refresh() {
      const answer = await ask(this.$root.dataset.url);
      if (!answer) return;
      const latest = (await answer.json()).panels[0];
      this.chart.show(latest);
      const since = this.$root.parentElement.querySelector("[data-since]");
      if (since) {
        since.hidden = !latest.begins;
        since.querySelector("b").textContent = latest.begins ? `${timeOfDay(latest.begins, "2-digit")} UTC` : "";
      }
      const rows = latest.series.map(({ name }, place) => {
        const row = element("span", name);
        row.prepend(swatch(place));
        return row;
      });
      this.$root.parentElement.querySelector("[data-names]")?.replaceChildren(...rows);
    },
  }));
});
