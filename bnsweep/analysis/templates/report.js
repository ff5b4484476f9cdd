// Draws every chart of the page at the width it has, in the look the reader prefers.
(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const AXIS = 62, GAP = 26, NARROWEST = 300;

  // A faceted chart cannot take its container's width by itself: count columns and share the width.
  function fitted(chart, width) {
    const spec = structuredClone(chart);
    const narrow = width < 600;
    spec.autosize = { type: "pad", contains: "padding" };
    spec.padding = { left: 2, top: 4, right: 10, bottom: 4 };
    if (spec.facet) {
      const most = Math.max(1, Math.floor(width / NARROWEST));
      const columns = Math.min(spec.usermeta.panels, most, spec.usermeta.columns || 3);
      spec.columns = columns;
      // Words left of the first panel take their own room; the panels beside it share that axis.
      const axes = spec.usermeta.left || columns * AXIS;
      spec.spec.width = Math.floor((width - 14 - axes - (columns - 1) * GAP) / columns);
      spec.spec.height = Math.max(columns === 1 ? 200 : 215, spec.usermeta.tall);
      spec.spacing = GAP;
    } else {
      spec.width = width;
      spec.autosize = { type: "fit-x", contains: "padding" };
    }
    return { spec, narrow };
  }

  function config(look, narrow) {
    const chosen = structuredClone(page.looks[look]);
    // Long legends run off a phone: one entry a line there.
    chosen.legend.columns = narrow ? 1 : 4;
    chosen.legend.labelLimit = narrow ? 250 : 320;
    return chosen;
  }

  let drawn = 0;
  async function draw(look) {
    const turn = ++drawn;
    for (const box of document.querySelectorAll(".chart")) {
      if (turn !== drawn) return;
      const { spec, narrow } = fitted(page.specs[box.dataset.chart], box.clientWidth);
      const result = await window.vegaEmbed(box, spec, {
        config: config(look, narrow), renderer: "svg", ast: true, mode: "vega-lite",
        tooltip: { theme: dark.matches ? "dark" : "light" },
        actions: { export: true, source: false, compiled: false, editor: false },
        downloadFileName: box.dataset.chart,
      });
      // Labels beside a panel take more room than guessed when names are long: give it back.
      const over = box.querySelector("svg").getBoundingClientRect().width - box.clientWidth;
      if (over > 0) result.view.container().querySelector("svg").style.maxWidth = "100%";
    }
    document.documentElement.dataset.charts = "drawn";
    document.dispatchEvent(new Event("charts-drawn"));
  }

  const now = () => draw(dark.matches ? "dark" : "light");
  let width = window.innerWidth, timer = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(now, 150);
  });
  dark.addEventListener("change", now);
  window.addEventListener("beforeprint", () => draw("light"));
  window.addEventListener("afterprint", now);
  now();
})();
