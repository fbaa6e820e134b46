// A time chart: fetches {times, series: [{name, values}]} from data-url, every data-every seconds while it is seen.
// A series takes the colour of its place (a, b, c, d), the same as its swatch in the legend.
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ["--series-a", "--series-b", "--series-c", "--series-d"];

function timeOfDay(seconds, second) {
  const language = document.documentElement.lang;
  return new Date(seconds * 1000).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23" });
}

function timesOfDay(plot, times) {
  const isShort = times.length > 1 && times[1] - times[0] < 60;
  return times.map((time) => timeOfDay(time, isShort ? "2-digit" : undefined));
}

function options(element, names, unit) {
  const number = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
  const axis = { stroke: token("--mute"), font: "12px system-ui", ticks: { show: false } };
  return {
    width: element.clientWidth,
    height: Number(element.dataset.height ?? 200),
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (plot, low, high) => [0, Math.max(high * 1.15, 1)] } },
    axes: [
      { ...axis, grid: { show: false }, space: 76, values: timesOfDay },
      { ...axis, grid: { stroke: token("--color-line"), width: 1 }, size: 52, values: (plot, values) => values.map((value) => number.format(value)) },
    ],
    series: [
      {},
      ...names.map((name, place) => ({
        label: name,
        stroke: token(COLOURS[place % COLOURS.length]),
        width: 2,
        fill: place === 0 ? `${token(COLOURS[0])}1a` : undefined,
        spanGaps: false,
        points: { show: false },
      })),
    ],
    hooks: {
      setCursor: [
        (plot) => {
          const index = plot.cursor.idx;
          const readout = element.parentElement.querySelector("[data-readout]");
          if (!readout) return;
          readout.textContent =
            index === null || index === undefined || plot.data[0][index] === undefined
              ? ""
              : `${timeOfDay(plot.data[0][index], "2-digit")}: ${names.map((name, place) => `${name} ${number.format(plot.data[place + 1][index] ?? 0)}`).join(", ")} ${unit}`;
        },
      ],
    },
  };
}

document.addEventListener("alpine:init", () => {
  Alpine.data("chart", () => ({
    init() {
      this.refresh();
      const every = Number(this.$el.dataset.every ?? 0);
      if (every) this.timer = setInterval(() => document.hidden || this.refresh(), every * 1000);
      this.observer = new ResizeObserver(() => this.plot?.setSize({ width: this.$root.clientWidth, height: this.plot.height }));
      this.observer.observe(this.$el);
      this.repaint = () => this.latest && this.draw(this.latest);
      document.addEventListener("theme-changed", this.repaint);
    },

    destroy() {
      clearInterval(this.timer);
      this.observer.disconnect();
      document.removeEventListener("theme-changed", this.repaint);
      this.plot?.destroy();
    },

    async refresh() {
      const answer = await fetch(this.$root.dataset.url, { headers: { accept: "application/json" } }).catch(() => null);
      if (!answer?.ok) return;
      const latest = await answer.json();
      const isSame = this.latest && String(this.latest.series.map((one) => one.name)) === String(latest.series.map((one) => one.name));
      this.latest = latest;
      if (isSame && this.plot) this.plot.setData([latest.times, ...latest.series.map((one) => one.values)]);
      else this.draw(latest);
    },

    draw({ times, series }) {
      this.plot?.destroy();
      this.plot = null;
      const empty = this.$root.querySelector("[data-empty]");
      if (empty) empty.hidden = times.length > 1;
      if (times.length < 2) return;
      const names = series.map((one) => one.name);
      this.plot = new uPlot(options(this.$root, names, this.$root.dataset.unit ?? ""), [times, ...series.map((one) => one.values)], this.$root);
    },
  }));
});
