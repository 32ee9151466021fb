"use strict";
(() => {
  const charts = [];

  // Charts take the colours of the page: dark, light, or paper.
  const style = () => {
    const of = getComputedStyle(document.documentElement);
    const colour = (name) => of.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--rule"), zerolinecolor: colour("--rule"), linecolor: colour("--rule") };
    return { ink: colour("--ink"), faint: colour("--faint"), ground: colour("--ground"), raised: colour("--raised"), axis };
  };
  const themed = (layout) => {
    const now = style();
    const found = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: now.ink, size: 12 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: now.faint, activecolor: now.ink },
      hoverlabel: { bgcolor: now.raised, bordercolor: now.axis.gridcolor, font: { color: now.ink } },
    };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
      found[name] = { ...now.axis, ...layout[name] };
    return found;
  };
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
  const coloured = (data) => {
    const ink = style().ink;
    const bars = (trace, name) => trace[name] ? { [name]: { ...trace[name], color: ink, thickness: 1.5 } } : {};
    return data.map((trace) => ({ ...trace, ...bars(trace, "error_x") }));
  };
  const draw = ({ place, figure }) =>
    Plotly.react(place, coloured(figure.data), themed(figure.layout), config);

  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const drawAll = async () => {
    const sources = document.querySelectorAll("script[data-chart]");
    if (sources.length) await unpack(document.getElementById("library").textContent);
    for (const source of sources) {
      const place = document.getElementById(source.dataset.chart);
      const chart = { place, figure: JSON.parse(source.textContent) };
      charts.push(chart);
      await draw(chart);
      place.dataset.drawn = "yes";
    }
  };
  drawAll();
  const redraw = () => charts.forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);

  // What is folded is printed too.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

  // Chips open as targets of links, without a script; keys go from one to the next.
  const chip = (row, col) => document.querySelector(`a.chip[data-row="${row}"][data-col="${col}"]`);
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  addEventListener("keydown", (event) => {
    const at = document.activeElement?.closest?.("a.chip");
    if (at && event.key in steps) {
      const [row, col] = steps[event.key];
      const next = chip(+at.dataset.row + row, +at.dataset.col + col);
      if (next) { next.focus(); event.preventDefault(); }
    }
    const open = document.querySelector(".chip-details:target");
    if (event.key === "Escape" && open) {
      const [, row, col] = open.id.split("-");
      location.hash = "#mesh";
      chip(row, col)?.focus();
    }
  });
})();
