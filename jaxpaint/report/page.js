"use strict";
// The page without scripts is whole: tables in order, figures as drawn. This adds what can be explored.
(() => {
  document.documentElement.classList.add("scripts");
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Tables: a click on a column's head sorts, a word in the box above keeps the rows that have it.
  const valueOf = (cell) => {
    const text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" || text === "nan" ? null : Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
  };
  const compare = (one, other) => {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), undefined, { numeric: true });
  };
  const sort = (table, head) => {
    const column = [...head.parentElement.children].indexOf(head);
    const isDown = head.getAttribute("aria-sort") === (head.classList.contains("n") ? "none" : "ascending");
    for (const other of head.parentElement.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: valueOf(row.cells[column]) }));
    rows.sort((one, other) => {
      if (one.value === null || other.value === null) return (one.value === null) - (other.value === null);
      return (isDown ? -1 : 1) * compare(one.value, other.value) || one.place - other.place;
    });
    table.tBodies[0].append(...rows.map((each) => each.row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      if (head.dataset.fixed !== undefined) continue;
      head.setAttribute("aria-sort", "none");
      head.tabIndex = 0;
      head.addEventListener("click", () => sort(table, head));
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(table, head); }
      });
    }
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 6) continue;
    const tools = make("div", "", { class: "tools" });
    const box = make("input", "", { type: "search", placeholder: "filter rows", "aria-label": "filter rows" });
    const told = make("span", "", { class: "soft", "aria-live": "polite" });
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      told.textContent = words.length ? ` ${shown} of ${rows.length} rows` : "";
    });
    tools.append(box, told);
    table.parentElement.before(tools);
  }

  // Printed, everything is open.
  const closed = [];
  addEventListener("beforeprint", () => {
    closed.push(...document.querySelectorAll("details:not([open])"));
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed.splice(0)) each.open = false; });

  // Plans: what flipped under one, and figures whose points lead to it.
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const config = () => ({
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: colour("ink"), titleColor: colour("ink"), gridColor: colour("line"), domainColor: colour("soft"),
      tickColor: colour("soft"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelColor: colour("ink"), titleColor: colour("ink"), labelFontSize: 12, titleFontSize: 12, orient: "bottom",
      columns: { expr: "max(1, floor(width / 130))" }, symbolLimit: 60, symbolOpacity: 1 },
  });
  const shown = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));
  const signed = (value) => (value === null || value === undefined ? "" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);
  const ends = (triple, write) => (triple[1] === null ? write(triple[0]) : `${write(triple[0])} (${write(triple[1])} to ${write(triple[2])})`);

  const listed = (count, numbers) => {
    if (!count) return "none";
    return `${count}: ${numbers.join(", ")}${count > numbers.length ? `, and ${count - numbers.length} more` : ""}`;
  };
  const FEW = 12; // documents that are shown at once
  const withTexts = (words, count, numbers, texts) => {
    if (!count) return make("p", `${words}: none.`);
    const box = make("details", "", count > FEW ? {} : { open: "" });
    const list = make("ol", "", { class: "documents" });
    for (const number of numbers) {
      const item = make("li"), [question, answer] = texts[number] ?? ["", ""];
      item.append(make("b", String(number)), make("span", question), make("span", answer, { class: "answer" }));
      list.append(item);
    }
    box.append(make("summary", `${words}: ${count}${count > numbers.length ? `, of which the first ${numbers.length}` : ""}`), list);
    return box;
  };
  const choose = (section, data, place) => {
    const plan = data.plans[place], box = section.querySelector(".chosen");
    for (const row of section.querySelectorAll("tr.is-chosen")) row.classList.remove("is-chosen");
    const row = document.getElementById(plan.id);
    row.classList.add("is-chosen");
    const close = make("button", "close", { type: "button", style: "float: right" });
    close.addEventListener("click", () => { box.hidden = true; row.classList.remove("is-chosen"); });
    const parts = [close, make("h4", plan.plan)];
    if (plan.text !== plan.plan) { const text = make("p"); text.append(make("code", plan.text)); parts.push(text); }
    let line = `Cost ${plan.cost}, depth ${plan.depth}; ${data.average}: ${ends(plan.scores[0], shown)}`;
    if (plan.difference[0] !== null) line += `; less the full model's: ${ends(plan.difference, signed)}`;
    if (plan.p) line += `, p ${plan.p} after Holm`;
    const link = make("p", `${line}. `);
    link.append(make("a", "Its row in the table", { href: `#${plan.id}` }));
    parts.push(link);
    data.tasks.forEach((task, index) => {
      const flips = plan.flips[index];
      if (!flips) return;
      const [gained, right, lost, wrong] = flips, texts = data.texts[index];
      if ([...right, ...wrong].some((number) => texts[number])) {
        parts.push(make("h5", `${task}: document, question, right answer`));
        parts.push(withTexts("Right by this plan alone", gained, right, texts));
        parts.push(withTexts("Right by the full model alone", lost, wrong, texts));
        return;
      }
      parts.push(make("p", `${task}. Right by this plan alone, documents ${listed(gained, right)}. Right by the full model alone, documents ${listed(lost, wrong)}.`));
    });
    box.replaceChildren(...parts);
    box.hidden = false;
    return box;
  };

  const tooltips = (data) => [
    { field: "plan", title: "plan" }, { field: "text", title: "layers" }, { field: "cost", title: "cost" },
    { field: "depth", title: "depth" }, { field: "told", title: "score" }, { field: "less", title: "less full" },
    { field: "p", title: "p (Holm)" }, { field: "flipped", title: "flipped" },
    ...(data.plans.some((plan) => plan.ms !== null) ? [{ field: "ms", title: "ms", format: ".3~g" }] : []),
  ];
  const flipped = (plan) => {
    const known = plan.flips.filter(Boolean);
    return known.length ? `+${known.reduce((sum, each) => sum + each[0], 0)} −${known.reduce((sum, each) => sum + each[2], 0)}` : "";
  };
  const points = (data, x, score) => data.plans.map((plan, place) => ({
    place, plan: plan.plan, text: plan.text, strategy: plan.strategy, cost: plan.cost, depth: plan.depth, ms: plan.ms,
    x: plan[x], y: plan.scores[score][0], low: plan.scores[score][1], high: plan.scores[score][2],
    told: ends(plan.scores[score], shown), less: ends(plan.difference, signed), p: plan.p, flipped: flipped(plan),
  })).filter((point) => point.x !== null && point.y !== null);

  const AXES = { cost: "cost: layer applications", depth: "depth: layers on the longest chain", ms: "milliseconds to the first new token" };
  const scoreSpec = (data, x, score, width) => {
    const values = points(data, x, score), names = Object.keys(data.looks);
    const full = values.filter((point) => point.place === data.full);
    const scale = { zero: false, nice: true };
    const whole = x === "ms" ? {} : { axis: { title: AXES[x], tickMinStep: 1, format: "d" } };
    const seen = { condition: { param: "strategies", value: 1 }, value: 0.06 };
    return {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: config(), width, height: Math.min(360, Math.max(240, 0.6 * width)),
      autosize: { type: "fit-x", contains: "padding" }, data: { values },
      encoding: {
        x: { field: "x", type: "quantitative", scale: { zero: false, padding: 12 }, title: AXES[x], ...whole },
        y: { field: "y", type: "quantitative", scale, title: score ? data.tasks[score - 1] : data.average },
        color: { field: "strategy", type: "nominal", title: null, scale: { domain: names, range: names.map((name) => (data.looks[name][0] === "#000000" ? colour("ink") : data.looks[name][0])) } },
        shape: { field: "strategy", type: "nominal", title: null, scale: { domain: names, range: names.map((name) => data.looks[name][1]) } },
      },
      layer: [
        { data: { values: full }, mark: { type: "rule", color: colour("soft"), strokeDash: [4, 3] }, encoding: { x: null, x2: null, y: { field: "y", type: "quantitative" }, color: null, shape: null } },
        { transform: [{ filter: "isValid(datum.low)" }], mark: { type: "rule", strokeWidth: 1 }, encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" }, shape: null, opacity: { condition: { param: "strategies", value: 0.3 }, value: 0.03 } } },
        { params: [{ name: "strategies", select: { type: "point", fields: ["strategy"] }, bind: "legend" }, { name: "zoom", select: "interval", bind: "scales" }],
          mark: { type: "point", filled: true, size: 80, cursor: "pointer" }, encoding: { tooltip: tooltips(data), opacity: seen } },
      ],
    };
  };
  const mapSpec = (data, map, width) => {
    const values = map.cells.map(([place, first, wide]) => {
      const plan = data.plans[place];
      return { place, first, width: wide, value: plan.difference[0], ...points({ ...data, plans: [plan] }, "cost", 0)[0], place };
    });
    const most = Math.max(...values.map((cell) => Math.abs(cell.value))) || 0.01;
    const rows = new Set(values.map((cell) => cell.width)).size, columns = new Set(values.map((cell) => cell.first)).size;
    const hasRoom = width / columns > 38;
    return {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: config(), width, height: Math.max(60, Math.min(420, 34 * rows)),
      autosize: { type: "fit-x", contains: "padding" }, data: { values },
      encoding: {
        x: { field: "first", type: "ordinal", title: "first layer of the block", axis: { labelAngle: 0, labelOverlap: true } },
        y: { field: "width", type: "ordinal", title: "layers", sort: "descending" },
      },
      layer: [
        { mark: { type: "rect", cursor: "pointer", stroke: colour("line") }, encoding: {
          color: { field: "value", type: "quantitative", title: "less full", scale: { scheme: "redblue", domain: [-most, most] }, legend: { orient: "bottom", gradientLength: Math.min(200, width / 2), columns: 1 } },
          tooltip: tooltips(data) } },
        ...(hasRoom ? [{ mark: { type: "text", fontSize: 12, cursor: "pointer" }, encoding: { tooltip: tooltips(data), text: { field: "value", type: "quantitative", format: "+.2f" },
          color: { condition: { test: `abs(datum.value) > ${0.6 * most}`, value: "#fff" }, value: "#000" } } }] : []),
      ],
    };
  };

  const draw = async (holder, spec, chosen) => {
    const view = holder.querySelector(".view");
    const width = Math.max(300, Math.floor(view.clientWidth || holder.parentElement.clientWidth) - 4);
    const result = await vegaEmbed(view, spec(width), { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false }, tooltip: { theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" } });
    result.view.addEventListener("click", (event, item) => { if (item && item.datum && item.datum.place !== undefined) chosen(item.datum.place); });
  };
  const choice = (name, options, change) => {
    const label = make("label", `${name} `), select = make("select");
    for (const [value, text] of options) select.append(make("option", text, { value }));
    select.addEventListener("change", change);
    label.append(select);
    return [label, select];
  };
  const drawings = [];
  for (const source of document.querySelectorAll("script.plans-data")) {
    const data = JSON.parse(source.textContent), section = source.closest(".plans-first");
    const chosen = (place) => choose(section, data, place).scrollIntoView({ block: "nearest" });
    data.plans.forEach((plan, place) => {
      const name = document.querySelector(`#${CSS.escape(plan.id)} .name`);
      const button = make("button", name.textContent, { type: "button", class: "plain", title: "its scores and documents" });
      button.addEventListener("click", () => chosen(place));
      name.replaceChildren(button);
    });
    for (const figure of section.querySelectorAll("figure.explored")) {
      const holder = figure.querySelector(".live");
      if (figure.dataset.map !== undefined) {
        const map = data.maps[Number(figure.dataset.map)];
        drawings.push(() => draw(holder, (width) => mapSpec(data, map, width), chosen));
        continue;
      }
      const again = () => draw(holder, (width) => scoreSpec(data, x.value, Number(y.value), width), chosen);
      const across = ["cost", "depth", "ms"].filter((name) => data.plans.some((plan) => plan[name] !== null));
      const [xLabel, x] = choice("Across", across.map((name) => [name, AXES[name]]), again);
      const scores = [[0, data.average], ...(data.tasks.length > 1 ? data.tasks.map((task, index) => [index + 1, task]) : [])];
      const [yLabel, y] = choice("Up", scores, again);
      const reset = make("button", "whole view", { type: "button" });
      reset.addEventListener("click", again);
      const tools = make("div", "", { class: "tools" });
      tools.append(xLabel, yLabel, reset);
      holder.prepend(tools);
      drawings.push(again);
    }
  }
  const all = async () => { for (const each of drawings) await each(); document.documentElement.dataset.drawn = "true"; };
  if (drawings.length && window.vegaEmbed) {
    all();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
    let width = innerWidth, waiting;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(all, 150);
    });
  }
})();
