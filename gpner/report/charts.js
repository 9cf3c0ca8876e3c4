// The charts of the scores that the model gave, as inline SVG.

const BINS = 20;
const WIDTH = 416;
const HEIGHT = 190;
const EDGE = { left: 44, right: 8, top: 10, bottom: 26 };

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function x(share) {
  return EDGE.left + share * (WIDTH - EDGE.left - EDGE.right);
}

function y(share) {
  return HEIGHT - EDGE.bottom - share * (HEIGHT - EDGE.top - EDGE.bottom);
}

function chart(title, note, ...children) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => (
    draw("text", { x: x(share), y: HEIGHT - 8, "text-anchor": "middle" }, String(share))
  ));
  const attributes = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${note}` };
  const caption = make("figcaption", {}, title, make("small", {}, note));
  return make("figure", {}, caption, draw("svg", attributes, ...children, ...ticks));
}

function side(word, at) {
  return draw("text", { x: EDGE.left - 5, y: at, "text-anchor": "end" }, word);
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
  const line = draw("line", { class: "axis", x1: x(0), x2: x(1), y1: y(zero), y2: y(zero) });
  const note = `How sure the model was of what it found. The highest bar stands for ${figure(Math.max(up, down))}.`;
  const sides = [side("correct", y(zero) - 5), side("wrong", y(zero) + 13)];
  return chart("Scores of found entities", note, ...bars, line, ...sides);
}

function column(bin, top, bottom, word, count) {
  const size = { width: x(1 / BINS) - x(0) - 1, height: y(bottom) - y(top) };
  const title = `${figure(count)} ${word}, score ${bin / BINS} to ${(bin + 1) / BINS}`;
  return draw("rect", { class: word, x: x(bin / BINS), y: y(top), ...size }, draw("title", {}, title));
}

// A calibrated model is on the diagonal: of the entities scored 0.8, eight in ten are right.
function reliability({ bins, expected_calibration_error: error }) {
  const points = bins.map((bin) => `${x(bin.mean_score)},${y(bin.share_correct)}`);
  const dots = bins.map(({ mean_score: score, share_correct: share, count }) => {
    const title = `${figure(count)} found, mean score ${rate(score)}, ${rate(share)} correct`;
    return draw("circle", { class: "point", cx: x(score), cy: y(share), r: 3 }, draw("title", {}, title));
  });
  const axis = draw("path", { class: "axis", d: `M${x(0)},${y(1)}V${y(0)}H${x(1)}` });
  const diagonal = draw("line", { class: "diagonal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) });
  const curve = draw("polyline", { class: "curve", points: points.join(" ") });
  const note = `Share that is right, by score; the dashed line is perfect. Expected calibration error ${rate(error)}.`;
  const sides = [0, 0.5, 1].map((share) => side(String(share), y(share) + 4));
  return chart("Reliability", note, axis, diagonal, curve, ...dots, ...sides);
}

$("charts").append(histogram(countScores()));
if (scores.reliability) $("charts").append(reliability(scores.reliability));
