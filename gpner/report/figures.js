// The figures: headline and tables with bars. What comes from the data is only ever set as text.

"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const scores = data.scores;
const KINDS = Object.keys(scores.kinds);
const STRICT = "An entity is correct if start, end and label are right. The thin line is the 95 % interval.";
const TABLES = [
  ["By label", "label", scores.by_label, STRICT],
  ["By length of document", "tokens", scores.by_document_tokens, "All entities of the documents of this length."],
  ["By length of entity", "characters", scores.by_entity_characters, "Gold and found entities of this length."],
  ["By nesting", "depth", scores.by_depth, "Entities by the number of gold entities that they lie in."],
];

function $(id) {
  return document.getElementById(id);
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function slug(kind) {
  return kind.replace(" ", "-");
}

function figure(count) {
  return count.toLocaleString("en");
}

function rate(value) {
  return value === null ? "–" : value.toFixed(3);
}

function range({ low, high }) {
  return `${rate(low)}–${rate(high)}`;
}

function summary() {
  const { gold, found, correct } = scores.micro;
  const characters = data.documents.reduce((sum, { length }) => sum + length, 0);
  const counts = { documents: data.documents.length, characters, "gold entities": gold, found, correct };
  return Object.entries(counts).map(([what, count]) => `${figure(count)} ${what}`).join(" · ");
}

function headline() {
  const { micro, macro, boundaries, types, interval } = scores;
  const figures = [
    ["micro F1", micro.f1, `95 % interval ${range(interval)}`],
    ["precision", micro.precision, "of what was found"],
    ["recall", micro.recall, "of what is gold"],
    ["macro F1", macro.f1, `precision ${rate(macro.precision)}, recall ${rate(macro.recall)}`],
    ["boundaries only", boundaries.f1, "F1, whatever the label"],
    ["labels only", types.f1, "F1, overlap is enough"],
  ];
  const items = figures.map(([name, value, note]) => (
    make("div", {}, make("dt", {}, name), make("dd", {}, rate(value), make("small", {}, note)))
  ));
  return make("dl", { id: "headline" }, ...items);
}

function scoreTable([title, column, rows, note]) {
  const heads = [column, "gold", "found", "correct", "precision", "recall", "F1"];
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)), make("td", { class: "bar" }));
  const isByLabel = rows === scores.by_label;
  const intervals = isByLabel ? scores.label_intervals : {};
  const body = Object.entries(rows).map(([name, row]) => scoreRow(name, row, intervals[name]));
  if (isByLabel) body.push(fill(scoreRow("all", scores.micro, scores.interval), { class: "total" }, []));
  const caption = make("caption", {}, title, make("small", {}, note));
  const table = make("table", { class: "scores" }, caption, make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "wide" }, table);
}

function scoreRow(name, { gold, found, correct, precision, recall, f1 }, interval) {
  const cells = [figure(gold), figure(found), figure(correct), rate(precision), rate(recall), rate(f1)];
  const nodes = [make("td", { dir: "auto" }, name), ...cells.map((cell) => make("td", {}, cell)), bar(f1, interval)];
  if (interval) nodes[6].setAttribute("title", `95 % interval ${range(interval)}`);
  return make("tr", {}, ...nodes);
}

// The figures beside the bar say the same, so it is hidden from screen readers.
function bar(value, interval) {
  const length = make("i");
  length.style.width = `${100 * value}%`;
  const track = make("span", {}, length);
  if (interval) {
    const { low, high } = interval;
    const line = make("b");
    line.style.left = `${100 * low}%`;
    line.style.width = `${100 * (high - low)}%`;
    track.append(line);
  }
  return make("td", { class: "bar", "aria-hidden": "true" }, track);
}

$("model").textContent = data.model;
$("corpus").textContent = summary();
const tables = TABLES.filter(([, , rows]) => Object.keys(rows).length).map(scoreTable);
$("scores").prepend(headline());
$("tables").append(...tables);
