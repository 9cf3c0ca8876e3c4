// The list of documents, its filters, and the way from error to error. marks.js draws the chosen document.

// More rows than anyone reads; sorting and filtering bring the others up.
const MOST_ROWS = 500;
const GLYPHS = { correct: "", "wrong label": "×", "wrong boundary": "↔", missed: "−", spurious: "+" };
const MEANINGS = {
  correct: "start, end and label are right",
  "wrong label": "start and end are right, the label is not",
  "wrong boundary": "a found entity overlaps a gold one of its label",
  missed: "a gold entity, nothing like it was found",
  spurious: "a found entity, nothing like it is gold",
};
const STEPS = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };

const entries = data.documents.map(readDocument);
const view = {
  // What the reader chose.
  document: null, kinds: new Set(KINDS), label: null, sort: "errors", descending: true,
  // What follows from it: the listed documents; of the chosen one its marks, its errors and which of them was visited.
  rows: [], marks: [], steps: [], current: -1,
};
const columns = [
  { key: "document", value: (entry) => -entry.order },
  { key: "length", value: (entry) => entry.length },
  { key: "errors", value: (entry) => entry.errors },
  { key: "F1", value: (entry) => entry.f1 ?? 2 }, // without entities: after all that have a score
];

function readDocument({ id, length, text, pairs: rows }, order) {
  const pairs = rows.map(([kind, gold, found, score]) => (
    { kind: KINDS[kind], gold: readSpan(gold), found: readSpan(KINDS[kind] === "correct" ? gold : found), score }
  ));
  const correct = pairs.filter(({ kind }) => kind === "correct").length;
  const total = pairs.filter(({ gold }) => gold).length + pairs.filter(({ found }) => found).length;
  return { id, length, text, order, pairs, f1: total ? (2 * correct) / total : null };
}

function readSpan(span) {
  return span ? { start: span[0], end: span[1], label: data.labels[span[2]] } : null;
}

function shownPairs(entry) {
  const hasLabel = (span) => span?.label === view.label;
  return entry.pairs.filter((pair) => (
    view.kinds.has(pair.kind) && (view.label === null || hasLabel(pair.gold) || hasLabel(pair.found))
  ));
}

function isError(pair) {
  return pair.kind !== "correct";
}

function drawFilters() {
  for (const kind of KINDS) {
    const box = make("input", { type: "checkbox", checked: "", value: kind });
    box.addEventListener("change", () => {
      if (box.checked) view.kinds.add(kind);
      else view.kinds.delete(kind);
      refresh();
    });
    const swatch = make("span", { class: `swatch ${slug(kind)}`, "aria-hidden": "true" });
    const name = make("span", {}, `${GLYPHS[kind]} ${kind}`.trim());
    const count = make("span", { class: "count" }, figure(scores.kinds[kind]));
    $("kinds").append(make("label", { class: "kind", title: MEANINGS[kind] }, box, swatch, name, count));
  }
  $("label").append(make("option", {}, "all labels"), ...data.labels.map((label) => make("option", {}, label)));
  $("label").addEventListener("change", () => {
    view.label = data.labels[$("label").selectedIndex - 1] ?? null;
    refresh();
  });
}

function refresh() {
  for (const entry of entries) {
    const shown = shownPairs(entry);
    entry.isListed = shown.length > 0 || (view.label === null && view.kinds.size === KINDS.length);
    entry.errors = shown.filter(isError).length;
  }
  drawList();
  drawChosen();
}

function drawList() {
  const { value } = columns.find(({ key }) => key === view.sort);
  const sign = view.descending ? -1 : 1;
  view.rows = entries.filter((entry) => entry.isListed);
  view.rows.sort((left, right) => sign * (value(left) - value(right)) || left.order - right.order);
  $("list").querySelector("thead tr").replaceChildren(...columns.map(headCell));
  $("list").querySelector("tbody").replaceChildren(...view.rows.slice(0, MOST_ROWS).map(bodyRow));
  const rest = view.rows.length - MOST_ROWS;
  const more = rest > 0 ? `and ${figure(rest)} more` : "";
  $("unlisted").textContent = view.rows.length ? more : "No document has such a span.";
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
  const button = make("button", { type: "button", dir: "auto", title: entry.id }, entry.id);
  const cells = [figure(entry.length), figure(entry.errors), rate(entry.f1)].map((cell) => make("td", {}, cell));
  const row = make("tr", {}, make("td", {}, button), ...cells);
  if (entry === view.document) row.setAttribute("aria-current", "true");
  row.addEventListener("click", () => choose(entry));
  return row;
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
  const shown = shownPairs(view.document);
  view.current = -1;
  view.steps = shown.filter(isError);
  $("document-id").textContent = view.document.id;
  drawText(view.document.text, shown);
  drawStep();
}

function drawStep() {
  const at = view.current < 0 ? "" : `${figure(view.current + 1)} of `;
  $("step").textContent = `${at}${figure(view.steps.length)} ${view.steps.length === 1 ? "error" : "errors"}`;
}

// Past the last error, the next listed document that has one is opened.
function step(by) {
  let next = view.current < 0 && by < 0 ? view.steps.length - 1 : view.current + by;
  if (next < 0 || next >= view.steps.length) {
    const position = view.rows.indexOf(view.document);
    const ahead = by > 0 ? view.rows.slice(position + 1) : view.rows.slice(0, Math.max(position, 0)).reverse();
    const other = ahead.find((entry) => entry.errors);
    if (!other) return;
    choose(other);
    next = by > 0 ? 0 : view.steps.length - 1;
  }
  focusPair(view.steps[next]);
}

function listenForSteps() {
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in STEPS) step(STEPS[event.key]);
    if (event.key === "Escape") hideDetail();
  });
  $("next").addEventListener("click", () => step(1));
  $("previous").addEventListener("click", () => step(-1));
}
