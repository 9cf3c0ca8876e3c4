// The frame of the charts of the scores that the model gave, as inline SVG.

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

function column(bin, top, bottom, word, count) {
  const size = { width: x(1 / BINS) - x(0) - 1, height: y(bottom) - y(top) };
  const title = `${figure(count)} ${word}, score ${bin / BINS} to ${(bin + 1) / BINS}`;
  return draw("rect", { class: word, x: x(bin / BINS), y: y(top), ...size }, draw("title", {}, title));
}

function axis(share) {
  return draw("line", { class: "axis", x1: x(0), x2: x(1), y1: y(share), y2: y(share) });
}
