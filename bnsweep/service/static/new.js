// Checks the sweep file while it is typed: what can be read at once, then the plan.
(() => {
  "use strict";
  const area = document.getElementById("spec"), numbers = document.querySelector(".numbers");
  const list = document.querySelector(".problems"), plan = document.querySelector(".plan");
  let bad = new Set(), turn = 0, soon = 0, later = 0;

  function draw() {
    numbers.replaceChildren();
    const count = area.value.split("\n").length;
    for (let line = 1; line <= count; line++) {
      const span = document.createElement("span");
      span.textContent = `${line}\n`;
      if (bad.has(line)) span.className = "bad";
      numbers.append(span);
    }
    numbers.scrollTop = area.scrollTop;
  }

  async function ask(path) {
    const body = JSON.stringify({ spec: area.value });
    const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body });
    return answer.json();
  }

  function text(tag, content) {
    const element = document.createElement(tag);
    element.textContent = content;
    return element;
  }

  function show(said) {
    const problems = said.ok ? said.problems : [{ message: said.error, line: null, where: "" }];
    bad = new Set(problems.map(p => p.line));
    list.replaceChildren(...problems.map(p => {
      const item = document.createElement("li");
      if (p.line) {
        const go = text("a", `line ${p.line}`);
        go.href = "#spec";
        go.dataset.line = p.line;
        item.append(go, ": ");
      }
      if (p.where) item.append(text("code", p.where), ": ");
      item.append(p.message);
      return item;
    }));
    plan.replaceChildren();
    if (said.note) plan.append(text("p", said.note));
    if (said.plan) {
      const p = said.plan, facts = document.createElement("dl"), minutes = p.hours * 60;
      facts.className = "facts-list";
      const rows = p.rows_min === p.rows_max ? `${p.rows_min}` : `${p.rows_min} to ${p.rows_max}`;
      const time = minutes >= 90 ? `${(minutes / 60).toFixed(1)} h` : minutes >= 1 ? `${minutes.toFixed(1)} min` : `${(minutes * 60).toFixed(0)} s`;
      const cores = (p.core_hours_training + p.core_hours_trials).toFixed(2);
      const lines = [
        ["Training runs", `${p.runs} planned, ${p.runs_done} there already`],
        ["Rows", `${rows} planned, ${p.rows_done} there already`],
        ["Time", `about ${time} on ${p.cpus} cores (${cores} core hours)`],
      ];
      if (p.cost !== null) lines.push(["Cost", p.cost < 0.01 ? "less than 0.01" : `about ${p.cost.toFixed(2)}`]);
      lines.push(["Speeds", p.speeds_from]);
      for (const [what, value] of lines) facts.append(text("dt", what), text("dd", value));
      plan.append(facts);
    }
    draw();
  }

  async function check(path, mine) {
    try {
      const said = await ask(path);
      if (mine === turn) { show(said); return said.ok && !said.problems.length; }
    } catch { /* the service is away: the form still works */ }
    return false;
  }

  function typed() {
    const mine = ++turn;
    clearTimeout(soon); clearTimeout(later);
    draw();
    soon = setTimeout(async () => {
      if (!await check("/read.json", mine)) return;
      plan.replaceChildren(text("p", "Planning …"));
      later = setTimeout(() => check("/check.json", mine), 500);
    }, 350);
  }

  // A field that was left writes itself into the file; a file that was left fills the fields.
  const form = document.getElementById("new"), place = document.getElementById("form");
  let writing = 0;
  async function write() {
    const mine = ++writing, before = area.value;
    const answer = await fetch("/new/form", { method: "POST", headers: { accept: "text/html" }, body: new FormData(form) });
    if (mine !== writing || area.value !== before) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const made = page.getElementById("spec");
    if (!made) return;
    const here = document.activeElement;
    place.replaceChildren(...page.getElementById("form").childNodes);
    const there = here?.name === "value" && document.getElementById(here.id);
    if (there) { // somebody types there by now
      there.value = here.value;
      there.focus();
    }
    if (area.value === made.value) return;
    area.value = made.value;
    typed();
  }
  const quietly = () => write().catch(() => {}); // the service is away: the button still works
  place.addEventListener("change", quietly);
  area.addEventListener("change", quietly);
  area.addEventListener("input", typed);
  area.addEventListener("scroll", () => { numbers.scrollTop = area.scrollTop; });
  list.addEventListener("click", event => {
    const line = Number(event.target.dataset.line);
    if (!line) return;
    event.preventDefault();
    const lines = area.value.split("\n"), start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    area.focus();
    area.setSelectionRange(start, start + lines[line - 1].length);
  });
  if (list.children.length || plan.children.length) draw(); else typed();
})();
