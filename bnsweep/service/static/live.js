// Follows a sweep: numbers by events, tables by loading their part of the page again.
(() => {
  "use strict";
  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;
  const moving = ["running", "queued", "cancelling", "lost"];
  let state = live.dataset.state, due = 0, loading = false, counted = null;

  function words(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
    return h ? `${h} h ${m % 60} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
  }

  function show(row) {
    const bar = live.querySelector("[role=progressbar]");
    if (bar) {
      bar.setAttribute("aria-valuenow", row.done_pct.toFixed(1));
      bar.firstElementChild.style.width = `${Math.min(100, row.done_pct)}%`;
      live.querySelector("#done-pct").textContent = `${row.done_pct.toFixed(1)} %`;
      live.querySelector("#left").textContent = words(row.left_s);
    }
    // The last rows of a sweep may come after its end.
    const count = `${row.trials} ${row.trained}`;
    if (counted !== null && counted !== count && !moving.includes(row.state)) location.reload();
    counted = count;
    if (row.state !== state) {
      const ended = moving.includes(state) && !moving.includes(row.state);
      state = row.state;
      if (ended) setTimeout(() => location.reload(), 3000); // the figures of all that has landed
      part();
    }
  }

  async function part() {
    // A part at most every four seconds, and never under somebody's hands.
    if (loading || Date.now() < due || live.contains(document.activeElement)) return;
    loading = true;
    due = Date.now() + 4000;
    try {
      const answer = await fetch(live.dataset.part, { headers: { accept: "text/html" } });
      if (answer.redirected) location.reload(); // to the sign-in page
      else if (answer.ok) live.innerHTML = await answer.text();
    } finally { loading = false; }
  }

  const events = new EventSource(live.dataset.events);
  events.addEventListener("progress", event => show(JSON.parse(event.data)));
  events.addEventListener("rows", () => { part(); document.getElementById("news").hidden = false; });
  window.addEventListener("pagehide", () => events.close());
})();
