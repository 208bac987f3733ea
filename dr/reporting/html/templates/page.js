const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}

function remember(theme) {
  try {
    if (theme) localStorage.setItem("dr-theme", theme);
    else localStorage.removeItem("dr-theme");
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.hidden = false;
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    const follows = (wanted === "dark") === system.matches;
    if (follows) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    remember(follows ? null : wanted);
    show();
  });
  system.addEventListener("change", show);
  show();
}

const collator = new Intl.Collator(undefined, { numeric: true });

function compareCells(one, other, numeric, sign) {
  const [a, b] = [one, other].map((cell) => cell.dataset.order ?? cell.textContent);
  if (!numeric) return sign * collator.compare(a, b);
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (Number(a) - Number(b));
}

function sortBy(table, header) {
  const headers = [...header.parentElement.children];
  const column = headers.indexOf(header);
  const numeric = header.classList.contains("number");
  const before = header.getAttribute("aria-sort");
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const order = before === first ? second : first;
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) =>
    compareCells(a.cells[column], b.cells[column], numeric, sign),
  );
  body.append(...rows);
}

function setUpTable(table) {
  if (table.tBodies[0].rows.length < 2) return;
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(table, header));
  }
}

function setUpFilter(input) {
  const table = document.getElementById(input.dataset.table);
  input.closest(".filter").hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

const views = [];

function tooltipOf(labels) {
  return (value, escape) => {
    const row = ([key, text]) =>
      `<tr><td class="key">${escape(labels[key] ?? key)}</td><td>${escape(text)}</td></tr>`;
    return `<table>${Object.entries(value).map(row).join("")}</table>`;
  };
}

async function draw(plot) {
  const data = document.getElementById(plot.dataset.spec);
  const config = JSON.parse(document.getElementById("chart-config").textContent);
  const spec = JSON.parse(data.textContent);
  const formatTooltip = tooltipOf(spec.usermeta?.labels ?? {});
  const tooltip = { theme: "page", disableDefaultStyle: true, formatTooltip };
  const options = { renderer: "svg", ast: true, actions: false, defaultStyle: false };
  const { view } = await vegaEmbed(plot, spec, { ...options, config, tooltip });
  if (plot.dataset.series !== undefined) views.push(view);
}

function sayFailed(plot, error) {
  console.error(error);
  plot.textContent = "This chart could not be drawn.";
}

function setUpLegend(legend) {
  const buttons = [...legend.querySelectorAll("button")];
  const update = () => {
    const off = buttons.filter((button) => button.getAttribute("aria-pressed") === "false");
    const hidden = off.map((button) => button.dataset.key);
    for (const view of views) view.signal("hidden", hidden).runAsync();
  };
  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!on));
      update();
    });
  }
}

setUpTheme();
document.querySelectorAll("table[data-sortable]").forEach(setUpTable);
document.querySelectorAll("input[data-table]").forEach(setUpFilter);
const plots = [...document.querySelectorAll("[data-spec]")];
await Promise.all(plots.map((plot) => draw(plot).catch((error) => sayFailed(plot, error))));
document.querySelectorAll(".legend").forEach(setUpLegend);
root.dataset.ready = "true";
