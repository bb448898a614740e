"use strict";
// Sorting, filters and downloads; without it the page shows everything in its first order.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // A model's row and the paper's row beneath it stay together; full runs, shorter ones and gaps stay apart.
  const groups = body => {
    const found = [];
    for (const row of body.rows) {
      if (row.classList.contains("level")) continue;
      if (row.classList.contains("paper") && found.length) found[found.length - 1].push(row);
      else found.push([row]);
    }
    return found;
  };

  const key = (group, column) => {
    const text = group[0].cells[column]?.dataset.sort ?? "";
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };

  const sort = (heading) => {
    const table = heading.closest("table"), column = heading.cellIndex;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const ordered = groups(body).map((rows, i) => ({ rows, i, key: key(rows, column) }));
      ordered.sort((a, b) => {
        // What has no number comes last, whichever way.
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.i - b.i;
        const order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
        return (descending ? -order : order) || a.i - b.i;
      });
      for (const { rows } of ordered) body.append(...rows);
    }
  };
  for (const button of all("button.sort")) button.addEventListener("click", () => sort(button.closest("th")));

  const form = document.getElementById("filters");
  const filter = () => {
    const system = form.elements.system.value;
    const models = new Set(all("input[name=model]:checked", form).map(box => box.value));
    const shows = element =>
      (!system || !element.dataset.system || element.dataset.system === system) &&
      (!element.dataset.models || element.dataset.models.split("\n").some(model => models.has(model)));
    for (const element of all("[data-system], [data-models]")) element.hidden = !shows(element);
    for (const row of all("tr.paper")) row.hidden ||= !form.elements.paper.checked;
    for (const row of all("tr.gap, tr.paper.of-gap")) row.hidden ||= !form.elements.gaps.checked;
    for (const body of all("table.leaderboard tbody")) {
      body.hidden = ![...body.rows].some(row => !row.classList.contains("level") && !row.hidden);
    }
    for (const section of all("section.figures-of")) {
      section.hidden = !all("figure", section).some(figure => !figure.hidden);
    }
    const rows = all("table.leaderboard tr.ours");
    const seen = rows.filter(row => !row.hidden && !row.closest("[hidden]"));
    form.elements.shown.value = `${seen.length} of ${rows.length} runs shown`;
  };
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", event => event.preventDefault());
    form.hidden = false;
    filter();
  }

  const tables = JSON.parse(document.getElementById("tables").textContent);
  // The names of the columns stand in the page once.
  for (const table of Object.values(tables)) {
    const { columns } = table;
    table.rows = table.rows.map(row => Object.fromEntries(row.map((value, i) => [columns[i], value])));
    delete table.columns;
  }
  const csv = table => {
    const columns = Object.keys(table.rows[0]);
    const cell = value => {
      const text = value === null ? "" : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...table.rows.map(row => columns.map(name => row[name]))]
      .map(row => row.map(cell).join(",") + "\n").join("");
  };
  const save = (name, text, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const tools of all(".tools[data-table]")) {
    const name = tools.dataset.table, table = tables[name];
    if (!table) continue;
    for (const [kind, make, type] of [
      ["csv", () => csv(table), "text/csv"],
      ["json", () => JSON.stringify(table, null, 1) + "\n", "application/json"],
    ]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind.toUpperCase();
      button.setAttribute("aria-label", `${table.title} as ${kind.toUpperCase()}`);
      button.addEventListener("click", () => save(`${name}.${kind}`, make(), type));
      tools.append(button);
    }
  }

  // A link to something folded up opens it.
  const open = () => {
    let target = null;
    try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return; }
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.hidden = false;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();

  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
