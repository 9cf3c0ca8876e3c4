// The documents of an evaluation: what was found in each is paired with what is gold, and filtered by kind and label.

const GLYPHS = { correct: "", "wrong label": "×", "wrong boundary": "↔", missed: "−", spurious: "+" };
const MEANINGS = {
  correct: "start, end and label are right",
  "wrong label": "start and end are right, the label is not",
  "wrong boundary": "a found entity overlaps a gold one of its label",
  missed: "a gold entity, nothing like it was found",
  spurious: "a found entity, nothing like it is gold",
};

const chosenKinds = new Set(KINDS);
const page = {
  columns: [
    { key: "document", value: (entry) => -entry.order },
    { key: "length", value: (entry) => entry.length, text: (entry) => figure(entry.length) },
    { key: "errors", value: (entry) => entry.steps, text: (entry) => figure(entry.steps), isFirst: true },
    // Without entities: after all that have a score.
    { key: "F1", value: (entry) => entry.f1 ?? 2, text: (entry) => rate(entry.f1) },
  ],
  none: "No document has such a span.",
  read: readDocument,
  findings: shownPairs,
  countSteps: (entry, pairs) => pairs.filter(isError).length,
  isListed: (entry, pairs) => pairs.length > 0 || (view.label === null && chosenKinds.size === KINDS.length),
  isStep: isError,
  nameSteps: (count) => (count === 1 ? "error" : "errors"),
  hits: () => null,
  marks: marksOf,
  describe,
};

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
    chosenKinds.has(pair.kind) && (view.label === null || hasLabel(pair.gold) || hasLabel(pair.found))
  ));
}

function isError(pair) {
  return pair.kind !== "correct";
}

// A correct pair is one mark, one with two different spans is two.
function marksOf({ kind, gold, found }) {
  const mark = (side, { start, end, label }) => (
    { start, end, tag: `${GLYPHS[kind]}${label}`, kind: `${slug(kind)} ${side}`, glyph: `${GLYPHS[kind]} `.trimStart() }
  );
  if (kind === "correct") return [mark("found", found)];
  return [gold && mark("gold", gold), found && mark("found", found)].filter(Boolean);
}

function describe({ kind, gold, found, score }) {
  const words = [kind];
  const place = ({ start, end, label }) => `${label} at ${start}–${end}`;
  if (kind === "correct") words.push(place(gold));
  else words.push(...[gold && `gold ${place(gold)}`, found && `found ${place(found)}`].filter(Boolean));
  return found ? [...words, `score ${score.toFixed(2)}`] : words;
}

function drawKinds() {
  for (const kind of KINDS) {
    const box = make("input", { type: "checkbox", checked: "", value: kind });
    box.addEventListener("change", () => {
      if (box.checked) chosenKinds.add(kind);
      else chosenKinds.delete(kind);
      refresh();
    });
    const swatch = make("span", { class: `swatch ${slug(kind)}`, "aria-hidden": "true" });
    const name = make("span", {}, `${GLYPHS[kind]} ${kind}`.trim());
    const count = make("span", { class: "count" }, figure(scores.kinds[kind]));
    $("kinds").append(make("label", { class: "kind", title: MEANINGS[kind] }, box, swatch, name, count));
  }
}

drawKinds();
listenToLabel(refresh);
start();
