// What every page uses: its data, and nodes made of it. What comes from the data is only ever set as text.

"use strict";

// Characters that show nothing themselves and may change how others look: controls, zero widths, overrides of direction.
// Joiners and marks that scripts need are not among them.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b\u202a-\u202e\u2060-\u2069\ufeff]+/gu;
const MOST_CODES = 3;

const data = JSON.parse(document.getElementById("data").textContent);

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

// A text with its unseen characters shown by their codes; each run of them is isolated, so that it changes nothing else.
function plain(text) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const { 0: run, index } of text.matchAll(UNSEEN)) {
    fragment.append(text.slice(from, index), make("span", { class: "unseen", "data-codes": codes(run) }, run));
    from = index + run.length;
  }
  fragment.append(text.slice(from));
  return fragment;
}

function codes(run) {
  const hexadecimal = [...run.slice(0, MOST_CODES)].map((one) => one.codePointAt(0).toString(16).toUpperCase());
  const rest = run.length > MOST_CODES ? ` and ${run.length - MOST_CODES} more` : "";
  return `U+${hexadecimal.map((code) => code.padStart(4, "0")).join(" U+")}${rest}`;
}

function figure(count) {
  return count.toLocaleString("en");
}

function rate(value) {
  return value === null ? "–" : value.toFixed(3);
}

// The figures beside the bar say the same, so it is hidden from screen readers.
function bar(share) {
  const length = make("i");
  length.style.width = `${100 * share}%`;
  return make("td", { class: "bar", "aria-hidden": "true" }, make("span", {}, length));
}

function drawTitle(title, summary) {
  $("title").append(plain(title));
  $("corpus").append(plain(summary));
}

function captionOf(title, note) {
  return make("caption", {}, title, make("small", {}, note));
}

function headlineOf(figures) {
  const items = figures.map(([name, value, note]) => (
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, note)))
  ));
  return make("dl", { id: "headline" }, ...items);
}
