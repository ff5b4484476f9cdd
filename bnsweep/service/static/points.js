// Points of a chart that open a page, by keyboard: a chart is one stop of the Tab key, arrows move within it.
(() => {
  "use strict";
  const opens = "path[role=graphics-symbol]";

  function reach(box) {
    const points = [...box.querySelectorAll(opens)].filter(point => point.__data__?.href);
    if (!points.length) return;
    // From left to right, then from the bottom up, panel by panel: as they are read out.
    const panel = new Map(points.map(point => [point, point.closest("g.mark-group")]));
    const panels = [...new Set(panel.values())];
    const at = point => point.__data__;
    points.sort((a, b) => panels.indexOf(panel.get(a)) - panels.indexOf(panel.get(b)) || at(a).x - at(b).x || at(b).y - at(a).y);
    points.forEach((point, i) => {
      point.setAttribute("role", "link");
      point.setAttribute("tabindex", i ? "-1" : "0");
    });
    box.onkeydown = event => {
      const now = points.indexOf(document.activeElement);
      if (now < 0) return;
      const step = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: points.length - 1 }[event.key];
      if (event.key === "Enter") location.assign(at(points[now]).href);
      else if (step !== undefined) {
        const next = points[Math.max(0, Math.min(points.length - 1, step))];
        points[now].setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      } else return;
      event.preventDefault();
    };
  }

  document.addEventListener("charts-drawn", () => document.querySelectorAll(".chart").forEach(reach));
})();
