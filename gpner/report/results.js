// The figures of extracted entities: headline, labels, the most frequent entities, scores, failures. A search and a
// chosen label hold for all of them and for the documents.

const MOST_SHOWN = 100;
const SPARK = { width: 5, gap: 1, height: 18 };
const { counts } = data;

let query = null;

// Words may be divided by any blanks, a line's end too. In any text the same characters match, whatever their case.
function readQuery(text) {
  const words = text.trim().split(/\s+/u).map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return words[0] ? new RegExp(words.join("\\s+"), "giu") : null;
}

function isFound(text) {
  return query === null || text.search(query) >= 0;
}

function isChosen(label) {
  return view.label === null || view.label === data.labels[label];
}

function counted(count, noun) {
  return `${figure(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function summary() {
  const models = data.models.map(({ model, revision }) => [model, revision].filter(Boolean).join(" "));
  const unfinished = data.isFinished ? [] : ["the job is not finished: these are the documents that it has done"];
  return [...models, counted(data.files, "file"), ...unfinished].join(" · ");
}

function headline() {
  const perDocument = counts.documents ? (counts.entities / counts.documents).toFixed(1) : "–";
  const distinct = data.shortfall ? `at least ${figure(data.distinct)}` : figure(data.distinct);
  return headlineOf([
    ["documents", figure(counts.documents), `${figure(counts.windowed)} of them read in several windows`],
    ["entities", figure(counts.entities), `${perDocument} a document`],
    ["different entities", distinct, `of ${counted(data.labels.length, "label")}`],
    ["tokens", figure(counts.tokens), `${figure(counts.windows)} windows`],
    ["failures", figure(data.failures.total), data.failures.total ? "listed below" : "every document was read"],
  ]);
}

function tableOf(name, title, note, heads, rows) {
  const head = make("tr", {}, ...heads.map((word) => make("th", { scope: "col" }, word)));
  const parts = [captionOf(title, note), make("thead", {}, head), make("tbody", {}, ...rows)];
  const table = make("table", { id: name }, ...parts);
  return make("div", { class: "wide tall", tabindex: 0, role: "group", "aria-label": title }, table);
}

function labelTable() {
  const most = Math.max(1, ...data.by_label.map(({ count }) => count));
  const shown = data.by_label.map((row, index) => ({ ...row, index })).filter(({ index }) => isChosen(index));
  const rows = shown.sort((left, right) => right.count - left.count).map(({ count, scores, index }) => (
    make("tr", {}, labelCell(index), make("td", {}, figure(count)), bar(count / most), make("td", {}, spark(scores)))
  ));
  const note = "Scores from 0 to 1, each label on its own scale.";
  return tableOf("labels", "By label", note, ["label", "entities", "", "scores"], rows);
}

function labelCell(label) {
  const swatch = make("span", { class: `swatch entity ${labelClass(label)}`, "aria-hidden": "true" });
  const name = make("span", { dir: "auto" }, plain(data.labels[label]));
  return make("td", {}, make("span", { class: "named" }, swatch, name));
}

function labelClass(label) {
  return `label-${label % 10}`;
}

function spark(counts) {
  const most = Math.max(1, ...counts);
  const bars = counts.map((count, bin) => {
    const height = count ? Math.max(1, (SPARK.height * count) / most) : 0;
    return draw("rect", { x: bin * (SPARK.width + SPARK.gap), y: SPARK.height - height, width: SPARK.width, height });
  });
  const width = BINS * (SPARK.width + SPARK.gap);
  return draw("svg", { class: "spark", viewBox: `0 0 ${width} ${SPARK.height}`, "aria-hidden": "true" }, ...bars);
}

function entityTable() {
  const found = data.frequent.filter(([surface, label]) => isChosen(label) && isFound(surface));
  const rows = found.slice(0, MOST_SHOWN).map(([surface, label, count]) => {
    const button = make("button", { type: "button", dir: "auto", title: "Search for it" }, plain(surface));
    button.addEventListener("click", () => searchFor(surface.replace(/…$/u, "")));
    return make("tr", {}, make("td", {}, button), labelCell(label), make("td", {}, figure(count)));
  });
  const rest = found.length - rows.length;
  if (rest) rows.push(make("tr", { class: "rest" }, make("td", { colspan: 3 }, `and ${figure(rest)} more`)));
  if (!found.length) rows.push(make("tr", { class: "rest" }, make("td", { colspan: 3 }, "None of them fits.")));
  return tableOf("entities", "Most frequent entities", entityNote(), ["entity", "label", "found"], rows);
}

function entityNote() {
  const held = data.frequent.length;
  const isWhole = held === data.distinct && !data.shortfall;
  const part = isWhole ? "" : `The ${figure(held)} most frequent are in this page. `;
  const exact = data.shortfall
    ? `At least ${figure(data.distinct)} differ, so a count may be too low, by ${figure(data.shortfall)} at most.`
    : "Counted over all documents, exactly.";
  return part + exact;
}

function scoreChart() {
  const chosen = data.by_label.filter((_, index) => isChosen(index));
  const bins = Array.from({ length: BINS }, (_, bin) => chosen.reduce((sum, { scores }) => sum + scores[bin], 0));
  const most = Math.max(1, ...bins);
  const bars = bins.map((count, bin) => column(bin, count / most, 0, "entities", count));
  const note = `How sure the model was. The highest bar stands for ${figure(most)}.`;
  return chart(`Scores of ${view.label === null ? "all entities" : "the chosen label"}`, note, ...bars, axis(0));
}

function failureTable() {
  const rows = data.failures.reasons.map(([reason, count, id, message]) => {
    const example = make("small", {}, plain(id === null ? message : `${id}: ${message}`));
    return make("tr", {}, make("td", { dir: "auto" }, plain(reason), example), make("td", {}, figure(count)));
  });
  return tableOf("failures", "Failures", "By reason, with the first of each.", ["reason", "failures"], rows);
}

function problemTable() {
  const rows = data.problems.first.map((problem) => make("tr", {}, make("td", { dir: "auto" }, plain(problem))));
  const rest = data.problems.total - rows.length;
  if (rest) rows.push(make("tr", { class: "rest" }, make("td", {}, `and ${figure(rest)} more`)));
  return tableOf("problems", "Not read", "Lines and files that hold no result; the rest is counted.", ["place"], rows);
}

function drawFigures() {
  $("tables").replaceChildren(labelTable(), entityTable());
  $("charts").replaceChildren(scoreChart());
  if (data.failures.total) $("charts").append(failureTable());
  if (data.problems.total) $("charts").append(problemTable());
}

drawTitle(data.title, summary());
$("figures").prepend(headline());
