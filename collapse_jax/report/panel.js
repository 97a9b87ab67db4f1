// Draws the panel of each experiment when it comes into view, and again when something else is chosen. Without scripts it stays hidden.
"use strict";
const drawing = JSON.parse(document.getElementById("drawing").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

// Of a long title, so that none is cut off beside the axis.
const lines = (text) => text.match(/.{1,38}(?= |$)|\S+/g).map((line) => line.trim());

for (const panel of document.querySelectorAll(".panel")) {
  const told = JSON.parse(panel.querySelector("script").textContent);
  const [metric, cell, log] = panel.querySelectorAll("select, input");
  const chart = panel.querySelector(".chart");

  let drawn = Promise.resolve();
  const draw = () => { drawn = drawn.then(embed); }; // one after the other

  async function embed() {
    const { title } = told.metrics[metric.value];
    const ink = getComputedStyle(panel).color;
    const spec = structuredClone(drawing);
    const chosen = { cell: cell.value, metric: metric.value, log: log.checked, names: told.workflows };
    spec.params = Object.entries(chosen).map(([name, value]) => ({ name, value }));
    spec.data.values = told.rows;
    spec.description = `${title} against generation, ${told.cells[cell.value]}, a curve per workflow`;
    const { x, y, color } = spec.encoding;
    if (told.long) x.scale = { type: "log", nice: false };
    if (log.checked) y.scale = { type: "log", nice: false, padding: 8 }; // not out to powers of ten
    y.title = lines(title);
    color.legend.columns = chart.clientWidth < 500 ? 1 : 0; // 0: all in a line
    color.scale = { domain: told.workflows, range: told.colours };
    spec.layer[2].encoding.color.value = ink;
    const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
    const config = {
      background: "transparent", view: { stroke: null }, legend: { ...text, symbolOpacity: 1 },
      axis: { ...text, domainColor: ink, tickColor: ink, gridOpacity: 0.25, gridColor: ink, titleLimit: 300, labelLimit: 200 },
    };
    const tooltip = { theme: dark.matches ? "dark" : "light" };
    await vegaEmbed(chart, spec, { mode: "vega-lite", actions: false, renderer: "svg", logLevel: vega.Error, config, tooltip });
  }

  const choose = () => {
    log.checked = told.metrics[metric.value].log;
    log.disabled = !told.metrics[metric.value].positive;
  };
  metric.addEventListener("change", choose);
  choose();
  panel.hidden = false;
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    observer.disconnect();
    draw();
    for (const one of [metric, cell, log, dark]) one.addEventListener("change", draw);
  }, { rootMargin: "400px" }).observe(panel);
}
