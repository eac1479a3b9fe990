// Line charts in the page's colours, on uPlot.

import uPlot from "uplot";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// lineChart draws series [{label, colour: "--accent", value}] over x; set gives it data.
// time: x is seconds since the epoch.
export function lineChart(host, { series, height = 180, time = false, xLabel = "" }) {
  let plot;
  let data = [[], ...series.map(() => [])];
  const make = () => {
    plot?.destroy();
    const axis = { stroke: () => colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    plot = new uPlot(
      {
        width: Math.max(host.clientWidth, 200),
        height,
        cursor: { points: { size: 6 }, drag: { x: false } },
        legend: { live: true },
        scales: { x: { time } },
        axes: [axis, { ...axis, size: 56, scale: "y" }],
        series: [
          { label: xLabel },
          ...series.map((s) => ({
            label: s.label,
            stroke: colour(s.colour),
            width: 2,
            points: { show: s.points ?? false },
            spanGaps: true,
            value: (_, v) => (v == null ? "–" : (s.value ?? String)(v)),
          })),
        ],
      },
      data,
      host,
    );
  };
  make();
  new ResizeObserver(() => plot.setSize({ width: Math.max(host.clientWidth, 200), height })).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
  return {
    set(d) {
      data = d;
      plot.setData(d);
    },
  };
}
