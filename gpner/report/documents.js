// The list of documents, and the way from step to step: from error to error, or from entity to entity. marks.js draws
// the chosen document. What a page reads, lists and steps through is in its `page`, which its own scripts define.

// More rows than anyone reads; sorting and filtering bring the others up.
const MOST_ROWS = 500;
const STEPS = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };

let entries = [];
const view = {
  // What the reader chose.
  document: null, label: null, sort: null, descending: true,
  // What follows from it: the listed documents; of the chosen one its characters, marks, hits of a search (null without
  // one), the parts that it is drawn in, the one that is drawn, its steps and which of them was visited.
  rows: [], units: [], marks: [], hits: null, parts: [], part: 0, steps: [], current: -1,
};

function start() {
  entries = data.documents.map(page.read);
  view.sort = page.columns.find(({ isFirst }) => isFirst).key;
  refresh();
  choose(view.rows[0] ?? null);
  listenToText();
  listenForSteps();
}

function listenToLabel(onChange) {
  $("label").append(make("option", {}, "all labels"), ...data.labels.map((label) => make("option", {}, label)));
  $("label").addEventListener("change", () => {
    view.label = data.labels[$("label").selectedIndex - 1] ?? null;
    onChange();
  });
}

function refresh() {
  for (const entry of entries) {
    const findings = page.findings(entry);
    entry.steps = page.countSteps(entry, findings);
    entry.isListed = page.isListed(entry, findings);
  }
  drawList();
  drawChosen();
}

function drawList() {
  const { value } = page.columns.find(({ key }) => key === view.sort);
  const sign = view.descending ? -1 : 1;
  view.rows = entries.filter((entry) => entry.isListed);
  view.rows.sort((left, right) => sign * (value(left) - value(right)) || left.order - right.order);
  $("list").querySelector("thead tr").replaceChildren(...page.columns.map(headCell));
  $("list").querySelector("tbody").replaceChildren(...view.rows.slice(0, MOST_ROWS).map(bodyRow));
  const rest = view.rows.length - MOST_ROWS;
  const more = rest > 0 ? `and ${figure(rest)} more` : "";
  $("unlisted").textContent = view.rows.length ? more : page.none;
}

function headCell({ key }) {
  const isChosen = key === view.sort;
  const direction = view.descending ? "descending" : "ascending";
  const arrow = view.descending ? " ↓" : " ↑";
  const button = make("button", { type: "button" }, key, isChosen ? arrow : "");
  button.addEventListener("click", () => {
    view.descending = isChosen ? !view.descending : true;
    view.sort = key;
    drawList();
  });
  return make("th", { scope: "col", "aria-sort": isChosen ? direction : "none" }, button);
}

function bodyRow(entry) {
  const button = make("button", { type: "button", dir: "auto", title: entry.id }, plain(entry.id));
  const cells = page.columns.slice(1).map(({ text }) => make("td", {}, text(entry)));
  const row = make("tr", {}, make("td", {}, button), ...cells);
  if (entry === view.document) row.setAttribute("aria-current", "true");
  row.addEventListener("click", () => {
    choose(entry);
    showTop();
  });
  return row;
}

// Whoever has read on in one text wants to see the beginning of another.
function showTop() {
  if ($("document").getBoundingClientRect().top < 0) $("browser").scrollIntoView();
}

function choose(entry) {
  view.document = entry;
  const position = view.rows.indexOf(entry);
  $("list").querySelector("[aria-current]")?.removeAttribute("aria-current");
  $("list").querySelectorAll("tbody tr")[position]?.setAttribute("aria-current", "true");
  drawChosen();
}

function drawChosen() {
  if (!view.document) return;
  $("document-id").replaceChildren(plain(view.document.id));
  drawText(view.document, page.findings(view.document));
  view.current = -1;
  drawStep();
}

function drawStep() {
  const at = view.current < 0 ? "" : `${figure(view.current + 1)} of `;
  $("step").textContent = `${at}${figure(view.steps.length)} ${page.nameSteps(view.steps.length)}`;
}

// Past the last step, the next listed document that has one is opened.
function step(by) {
  let next = view.current < 0 && by < 0 ? view.steps.length - 1 : view.current + by;
  if (next < 0 || next >= view.steps.length) {
    const position = view.rows.indexOf(view.document);
    const ahead = by > 0 ? view.rows.slice(position + 1) : view.rows.slice(0, Math.max(position, 0)).reverse();
    const other = ahead.find((entry) => entry.steps);
    if (!other) return;
    choose(other);
    next = by > 0 ? 0 : view.steps.length - 1;
  }
  goTo(view.steps[next]);
}

// A key that is typed into a field, or a command to the browser.
function isForOthers({ target, ctrlKey, metaKey, altKey }) {
  return target.matches("input, select") || ctrlKey || metaKey || altKey;
}

function listenForSteps() {
  document.addEventListener("keydown", (event) => {
    if (isForOthers(event)) return;
    if (event.key in STEPS) step(STEPS[event.key]);
    if (event.key === "Escape") hideDetail();
  });
  for (const [id, by, word, keys] of [["next", 1, "Next", "j or right"], ["previous", -1, "Previous", "k or left"]]) {
    $(id).setAttribute("title", `${word} ${page.nameSteps(1)} (${keys} arrow)`);
    $(id).addEventListener("click", () => step(by));
  }
  for (const [id, by] of [["next-part", 1], ["previous-part", -1]]) {
    $(id).addEventListener("click", () => {
      drawPart(view.part + by);
      showTop();
    });
  }
}
