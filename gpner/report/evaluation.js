// The figures of an evaluation: headline, tables with bars, charts of the scores.

const scores = data.scores;
const KINDS = Object.keys(scores.kinds);
const STRICT = "An entity is correct if start, end and label are right. The thin line is the 95 % interval.";
const TABLES = [
  ["By label", "label", scores.by_label, STRICT],
  ["By length of document", "tokens", scores.by_document_tokens, "All entities of the documents of this length."],
  ["By length of entity", "characters", scores.by_entity_characters, "Gold and found entities of this length."],
  ["By nesting", "depth", scores.by_depth, "Entities by the number of gold entities that they lie in."],
];

function slug(kind) {
  return kind.replace(" ", "-");
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
  return headlineOf(figures.map(([name, value, note]) => [name, rate(value), note]));
}

function scoreTable([title, column, rows, note]) {
  const heads = [column, "gold", "found", "correct", "precision", "recall", "F1"];
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)), make("td", { class: "bar" }));
  const isByLabel = rows === scores.by_label;
  const intervals = isByLabel ? scores.label_intervals : {};
  const body = Object.entries(rows).map(([name, row]) => scoreRow(name, row, intervals[name]));
  if (isByLabel) body.push(fill(scoreRow("all", scores.micro, scores.interval), { class: "total" }, []));
  const table = make("table", { class: "scores" }, captionOf(title, note), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "wide" }, table);
}

function scoreRow(name, { gold, found, correct, precision, recall, f1 }, interval) {
  const cells = [figure(gold), figure(found), figure(correct), rate(precision), rate(recall), rate(f1)];
  const nodes = [make("td", { dir: "auto" }, plain(name)), ...cells.map((cell) => make("td", {}, cell)), barWithin(f1, interval)];
  if (interval) nodes[6].setAttribute("title", `95 % interval ${range(interval)}`);
  return make("tr", {}, ...nodes);
}

function barWithin(value, interval) {
  const cell = bar(value);
  if (interval) {
    const { low, high } = interval;
    const line = make("b");
    line.style.left = `${100 * low}%`;
    line.style.width = `${100 * (high - low)}%`;
    cell.firstChild.append(line);
  }
  return cell;
}

function countScores() {
  const counts = { correct: Array(BINS).fill(0), wrong: Array(BINS).fill(0) };
  for (const [kind, gold, found, score] of data.documents.flatMap(({ pairs }) => pairs)) {
    const isCorrect = KINDS[kind] === "correct";
    if (isCorrect || found) counts[isCorrect ? "correct" : "wrong"][Math.min(BINS - 1, Math.floor(score * BINS))] += 1;
  }
  return counts;
}

// Correct above the line, wrong below it, on one scale.
function histogram({ correct, wrong }) {
  const up = Math.max(1, ...correct);
  const down = Math.max(1, ...wrong);
  const zero = Math.min(0.85, Math.max(0.15, down / (up + down)));
  const scale = Math.min((1 - zero) / up, zero / down);
  const bars = correct.flatMap((count, bin) => [
    column(bin, zero + count * scale, zero, "correct", count),
    column(bin, zero, zero - wrong[bin] * scale, "wrong", wrong[bin]),
  ]);
  const note = `How sure the model was of what it found. The highest bar stands for ${figure(Math.max(up, down))}.`;
  const sides = [side("correct", y(zero) - 5), side("wrong", y(zero) + 13)];
  return chart("Scores of found entities", note, ...bars, axis(zero), ...sides);
}

// A calibrated model is on the diagonal: of the entities scored 0.8, eight in ten are right.
function reliability({ bins, expected_calibration_error: error }) {
  const points = bins.map((bin) => `${x(bin.mean_score)},${y(bin.share_correct)}`);
  const dots = bins.map(({ mean_score: score, share_correct: share, count }) => {
    const title = `${figure(count)} found, mean score ${rate(score)}, ${rate(share)} correct`;
    return draw("circle", { class: "point", cx: x(score), cy: y(share), r: 3 }, draw("title", {}, title));
  });
  const axes = draw("path", { class: "axis", d: `M${x(0)},${y(1)}V${y(0)}H${x(1)}` });
  const diagonal = draw("line", { class: "diagonal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) });
  const curve = draw("polyline", { class: "curve", points: points.join(" ") });
  const note = `Share that is right, by score; the dashed line is perfect. Expected calibration error ${rate(error)}.`;
  const sides = [0, 0.5, 1].map((share) => side(String(share), y(share) + 4));
  return chart("Reliability", note, axes, diagonal, curve, ...dots, ...sides);
}

drawTitle(data.model, summary());
$("scores").prepend(headline());
$("tables").append(...TABLES.filter(([, , rows]) => Object.keys(rows).length).map(scoreTable));
$("charts").append(histogram(countScores()));
if (scores.reliability) $("charts").append(reliability(scores.reliability));
