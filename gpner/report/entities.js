// A sample of the documents with the entities that were found in them, and the search for them.

// Hits that are marked in one document; a search that has more is not worth stepping through.
const MOST_HITS = 1000;

const page = {
  columns: [
    { key: "document", value: (entry) => -entry.order, isFirst: true },
    { key: "length", value: (entry) => entry.length, text: (entry) => figure(entry.length) },
    { key: "entities", value: (entry) => entry.shown, text: (entry) => figure(entry.shown) },
    { key: "hits", value: (entry) => entry.hits?.length ?? 0, text: (entry) => countHits(entry) },
  ],
  none: "No document of the sample fits.",
  read: ({ id, length, text, entities }, order) => (
    { id, length, text, order, entities: entities.map(readEntity), hits: null, shown: entities.length }
  ),
  findings: (entry) => entry.entities.filter(({ label }) => view.label === null || label === view.label),
  countSteps: (entry, entities) => {
    entry.shown = entities.length;
    return entry.hits?.length ?? entities.length;
  },
  isListed: (entry, entities) => (
    (view.label === null || entities.length > 0) && (!entry.hits || entry.hits.length > 0 || isFound(entry.id))
  ),
  isStep: () => true,
  nameSteps: (count) => (query ? (count === 1 ? "hit" : "hits") : count === 1 ? "entity" : "entities"),
  hits: (entry, units) => entry.hits?.map(({ start, end }) => (
    { start: characterAt(units, start), end: characterAt(units, end) }
  )) ?? null,
  marks: ({ start, end, label, kind }) => [{ start, end, tag: label, kind }],
  describe: ({ start, end, label, score }) => [label, `${start}–${end}`, `score ${rate(score)}`],
};

function readEntity([start, end, label, score]) {
  return { start, end, label: data.labels[label], kind: `found entity ${labelClass(label)}`, score };
}

function countHits({ hits }) {
  if (!hits) return "–";
  return hits.length < MOST_HITS ? figure(hits.length) : `${figure(MOST_HITS)}+`;
}

// In units of the string, which the list needs no characters for.
function findHits(text) {
  const hits = [];
  for (const { 0: hit, index } of text.matchAll(query)) {
    hits.push({ start: index, end: index + hit.length });
    if (hits.length === MOST_HITS) break;
  }
  return hits;
}

function search() {
  query = readQuery($("query").value);
  for (const entry of entries) entry.hits = query && findHits(entry.text);
  update();
}

function searchFor(text) {
  $("query").value = text.replace(/\s+/gu, " ");
  search();
  $("query").focus();
}

// A search opens the first document that has a hit, unless the open one has.
function update() {
  drawFigures();
  refresh();
  if (view.rows.length && !view.rows.includes(view.document)) choose(view.rows[0]);
}

drawFigures();
start();
if (!data.documents.length) {
  $("browser").hidden = true;
  const reason = "There is no text to show: neither a sample beside the results, nor a line of them with a text.";
  $("documents").append(make("p", {}, reason));
}
listenToLabel(update);
$("query").addEventListener("input", search);
$("query").addEventListener("keydown", ({ key }) => {
  if (key === "Enter") step(1);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || isForOthers(event)) return;
  event.preventDefault();
  $("query").focus();
});
