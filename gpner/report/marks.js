// The chosen document with its spans. Only that one is in the page, and of a long one only a part: a corpus may be large,
// and so may one text, or the number of spans that a bad model finds in it.

// Spans that overlap in one place and are drawn; more lines under a text cannot be told apart.
const MOST_TRACKS = 12;
// What a browser lays out in well under a second: of one part its characters, and the spans and unseen characters that
// begin in it.
const MOST_CHARACTERS = 100000;
const MOST_BEGINNINGS = 2500;
// A tag is not broken into lines; pointing at it tells the whole label.
const MOST_IN_TAG = 30;
// How far back from where it is full a part may end, to end with a blank.
const MOST_BACK = 200;

// Offsets count code points, JavaScript strings count UTF-16 units: entry i of the result is where character i begins.
function unitOffsets(text) {
  const offsets = new Uint32Array(text.length + 1);
  let characters = 0;
  for (const character of text) {
    offsets[characters + 1] = offsets[characters] + character.length;
    characters += 1;
  }
  return offsets.subarray(0, characters + 1);
}

function characterAt(units, unit) {
  return firstWhere(units, (other) => other >= unit);
}

// The first place in a sorted list from which on something holds.
function firstWhere(list, holds) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

// A span keeps its track in all its pieces; shorter spans are nearer to the text. Where more spans overlap than there
// are tracks, the longest get none (-1).
function assignTracks(marks) {
  const tracks = Array.from({ length: MOST_TRACKS }, () => []);
  const byLength = [...marks].sort((a, b) => a.end - a.start - (b.end - b.start) || a.number - b.number);
  for (const mark of byLength) mark.track = tracks.findIndex((track) => place(mark, track));
}

// The marks of a track are in order and apart; one that fits between them is put there.
function place(mark, track) {
  const at = firstWhere(track, ({ end }) => end > mark.start);
  if (at < track.length && track[at].start < mark.end) return false;
  track.splice(at, 0, mark);
  return true;
}

function cutIntoParts(text, units, marks) {
  const unseen = [...text.matchAll(UNSEEN)].map(({ index }) => characterAt(units, index));
  const starts = [...marks.map(({ start }) => start), ...unseen].sort((a, b) => a - b);
  const length = units.length - 1;
  const parts = [];
  let start = 0;
  do {
    const tooMany = starts[firstWhere(starts, (other) => other >= start) + MOST_BEGINNINGS] ?? length;
    const full = Math.min(length, start + MOST_CHARACTERS, Math.max(tooMany, start + 1));
    const end = full < length ? lastBlank(text, units, start, full) : length;
    parts.push({ start, end });
    start = end;
  } while (start < length);
  return parts;
}

function lastBlank(text, units, start, full) {
  for (let end = full; end > Math.max(start, full - MOST_BACK); end -= 1) {
    if (/\s/u.test(text[units[end] - 1])) return end;
  }
  return full;
}

function drawText(entry, findings) {
  const { text } = entry;
  view.units = unitOffsets(text);
  view.hits = page.hits(entry, view.units);
  const marks = findings.flatMap((finding) => page.marks(finding).map((mark) => ({ ...mark, finding })));
  marks.forEach((mark, number) => { mark.number = number; });
  assignTracks(marks);
  view.marks = marks;
  const drawn = marks.filter(({ track }) => track >= 0);
  view.parts = cutIntoParts(text, view.units, drawn);
  view.steps = view.hits ? view.hits.map(stepOfHit) : stepsOf(drawn);
  const undrawn = marks.length - drawn.length;
  const lines = `${figure(undrawn)} spans are not drawn: more than ${MOST_TRACKS} lie in one place. Filter to see others.`;
  $("undrawn").textContent = undrawn ? lines : "";
  drawPart(view.hits?.length ? partOf(view.hits[0].start) : 0);
}

function partOf(character) {
  return view.parts.findIndex(({ end }) => character < end);
}

function stepOfHit({ start }, number) {
  return { at: start, name: "hit", number };
}

// A finding's first mark is its step.
function stepsOf(marks) {
  const firsts = new Map(marks.toReversed().map((mark) => [mark.finding, mark]));
  const steps = [...firsts.values()].filter(({ finding }) => page.isStep(finding));
  return steps.sort((a, b) => a.number - b.number).map(({ end, number }) => ({ at: end - 1, name: "of", number }));
}

function drawPart(index) {
  hideDetail();
  view.part = index;
  const part = view.parts[index];
  const fragment = document.createDocumentFragment();
  for (const piece of cutIntoPieces(part, view.marks.filter(({ track }) => track >= 0), view.hits ?? [])) {
    fragment.append(...drawPiece(view.document.text, piece));
  }
  // One insertion: a browser looks for the direction of the text at each.
  $("text").replaceChildren(make("div", {}, fragment));
  $("text").querySelector("[data-of], [data-hit]")?.setAttribute("tabindex", 0);
  $("parts").hidden = view.parts.length === 1;
  const characters = `characters ${figure(part.start)}–${figure(part.end)}`;
  $("part").textContent = `part ${figure(index + 1)} of ${figure(view.parts.length)}, ${characters}`;
  $("previous-part").disabled = index === 0;
  $("next-part").disabled = index === view.parts.length - 1;
}

// Cut a part wherever a span or a hit starts or ends, so that crossing spans need no common tree.
function cutIntoPieces(part, marks, hits) {
  const lies = ({ start, end }) => start < part.end && end > part.start;
  const clip = (place) => Math.min(Math.max(place, part.start), part.end);
  const here = marks.filter(lies);
  const hitsHere = hits.map((hit, number) => ({ ...hit, number })).filter(lies);
  const places = [...here, ...hitsHere].flatMap(({ start, end }) => [clip(start), clip(end)]);
  const borders = [...new Set([part.start, part.end, ...places])].sort((a, b) => a - b);
  const indices = new Map(borders.map((border, index) => [border, index]));
  const pieces = borders.slice(1).map((end, index) => ({ start: borders[index], end, tracks: [], hit: null }));
  const covered = ({ start, end }) => pieces.slice(indices.get(clip(start)), indices.get(clip(end)));
  for (const mark of here) for (const piece of covered(mark)) piece.tracks[mark.track] = mark;
  for (const hit of hitsHere) for (const piece of covered(hit)) piece.hit = hit.number;
  return pieces;
}

// The text of a piece with the lines under it, and the tags of the spans that end with it.
function drawPiece(text, { start, end, tracks, hit }) {
  const words = plain(text.slice(view.units[start], view.units[end]));
  const shown = hit === null ? words : make("mark", { "data-hit": hit, tabindex: -1 }, words);
  const onward = tracks.map((mark) => (mark.end > end ? mark : undefined));
  const tags = tracks.filter((mark) => mark.end === end).map(makeTag);
  return [underline(shown, tracks), ...tags.map((tag) => underline(tag, onward))];
}

function underline(node, tracks) {
  let lined = node;
  tracks.forEach((mark, track) => {
    if (!mark) return;
    lined = make("span", { class: `line ${mark.kind}`, "data-mark": mark.number, "data-track": track }, lined);
    lined.style.setProperty("--track", track);
  });
  if (lined !== node) lined.style.setProperty("--depth", tracks.length);
  return lined;
}

// The tag's words are generated content: they are neither selected nor copied with the text.
function makeTag(mark) {
  return make("span", {
    class: `tag ${mark.kind}`, role: "note", tabindex: -1, "data-of": mark.number, "data-tag": shortTag(mark.tag),
    "aria-label": page.describe(mark.finding).join(", "),
  });
}

function shortTag(tag) {
  const characters = [...tag.replace(UNSEEN, codes)];
  if (characters.length > MOST_IN_TAG) characters.splice(MOST_IN_TAG - 1, Infinity, "…");
  return characters.join("");
}

function showDetail(findings, node) {
  const rows = findings.map((finding) => {
    const [title, ...rest] = page.describe(finding);
    const { kind, glyph = "" } = page.marks(finding)[0];
    return make("p", { class: kind }, make("b", {}, glyph, plain(title)), plain(` · ${rest.join(" · ")}`));
  });
  $("detail").replaceChildren(...rows);
  $("detail").hidden = false;
  placeDetail(node.getClientRects());
  highlight(findings);
}

function placeDetail(boxes) {
  const detail = $("detail");
  detail.style.left = "0";
  const box = boxes[boxes.length - 1];
  const left = Math.min(box.left, document.documentElement.clientWidth - detail.offsetWidth - 8);
  const fits = box.bottom + 10 + detail.offsetHeight < innerHeight;
  const top = fits ? box.bottom + 10 : box.top - 6 - detail.offsetHeight;
  detail.style.left = `${Math.max(8, left) + scrollX}px`;
  detail.style.top = `${top + scrollY}px`;
}

function hideDetail() {
  $("detail").hidden = true;
  highlight([]);
}

function highlight(findings) {
  for (const node of $("text").querySelectorAll(".active")) node.classList.remove("active");
  for (const { number } of view.marks.filter(({ finding }) => findings.includes(finding))) {
    const nodes = $("text").querySelectorAll(`[data-mark="${number}"], [data-of="${number}"]`);
    for (const node of nodes) node.classList.add("active");
  }
}

// The lines of one piece are nested, so the pointer is always within the innermost and its ancestors are the others.
function findingsAt(node) {
  const innermost = node.closest(".line, .tag");
  if (!innermost) return [];
  if (innermost.dataset.of) return [view.marks[innermost.dataset.of].finding];
  const numbers = [...innermost.querySelectorAll(".line")].map((inner) => inner.dataset.mark).reverse();
  for (let line = innermost; line; line = line.parentElement.closest(".line")) numbers.push(line.dataset.mark);
  return [...new Set(numbers.map((number) => view.marks[number].finding))];
}

function goTo({ at, name, number }) {
  const part = partOf(at);
  if (part !== view.part) drawPart(part);
  const node = $("text").querySelector(`[data-${name}="${number}"]`);
  node.scrollIntoView({ block: "center" });
  node.focus({ preventScroll: true });
}

function listenToText() {
  $("text").addEventListener("pointerover", (event) => {
    const findings = findingsAt(event.target);
    if (findings.length) showDetail(findings, event.target);
    else hideDetail();
  });
  $("text").addEventListener("pointerleave", hideDetail);
  $("text").addEventListener("focusin", ({ target }) => {
    $("text").querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
    target.setAttribute("tabindex", 0);
    view.current = view.steps.findIndex(({ name, number }) => target.dataset[name] === String(number));
    drawStep();
    const findings = findingsAt(target);
    if (findings.length) showDetail(findings, target);
  });
  $("text").addEventListener("focusout", hideDetail);
}
