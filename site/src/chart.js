// Line charts in the page's colours, on uPlot.

import uPlot from "uplot";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// distances are those that ticks may have, from a power of ten on: one, two and five times each.
// There is nothing between two batches or seconds, so those of x are whole.
const distances = (from) => Array.from({ length: 3 * (12 - from) }, (_, i) => Number(`${[1, 2, 5][i % 3]}e${from + Math.floor(i / 3)}`));

// lineChart draws one series over x, whose unit is xLabel. say formats a value; fromZero
// keeps zero visible. set takes points [x, y] and updates the description for screen readers.
export function lineChart(host, { label, colour: stroke, say, xLabel, height = 190, points = false, fromZero = false }) {
  const name = host.ariaLabel;
  const width = () => Math.max(host.clientWidth, 200);
  let plot;
  let data = [[], []];
  const make = () => {
    plot?.destroy();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const y = fromZero ? { range: (_, min, max) => [Math.min(0, min), max > 0 ? 1.1 * max : 1] } : {};
    plot = new uPlot(
      {
        width: width(),
        height,
        padding: [8, 12, 0, 0],
        cursor: { points: { size: 6 }, drag: { x: false } },
        legend: { markers: { show: false } },
        scales: { x: { time: false }, y },
        axes: [{ ...axis, size: 28, incrs: distances(0) }, { ...axis, size: 52, incrs: distances(-12) }],
        series: [{ label: xLabel }, { label, stroke: colour(stroke), width: 2, points: { show: points }, value: (_, v) => (v == null ? "" : say(v)) }],
      },
      data,
      host,
    );
  };
  make();
  new ResizeObserver(() => plot.setSize({ width: width(), height })).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
  return {
    set(list) {
      if (list.length === data[0].length && list.at(-1)?.[0] === data[0].at(-1)) return;
      data = [list.map((p) => p[0]), list.map((p) => p[1])];
      plot.setData(data);
      host.ariaLabel = list.length ? `${name}: ${say(list[0][1])} at first, now ${say(list.at(-1)[1])}` : name;
    },
  };
}
