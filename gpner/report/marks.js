// The chosen document with its spans. Only that one is in the page: a corpus may be large.

// Offsets count code points, JavaScript strings count UTF-16 units: entry i of the result is where character i begins.
function unitOffsets(text) {
  const offsets = [0];
  for (const character of text) offsets.push(offsets[offsets.length - 1] + character.length);
  return offsets;
}

// A correct pair is one mark, one with two different spans is two.
function marksOf(pairs) {
  const marks = pairs.flatMap((pair) => {
    const gold = { ...pair.gold, pair, side: "gold" };
    const found = { ...pair.found, pair, side: "found" };
    return pair.kind === "correct" || !pair.gold ? [found] : pair.found ? [gold, found] : [gold];
  });
  return marks.map((mark, number) => ({ ...mark, number }));
}

// Cut a text wherever a span starts or ends, so that crossing spans need no common tree. A span keeps its track in all
// its pieces; shorter spans are nearer to the text.
function cut(length, marks) {
  const borders = [...new Set([0, length, ...marks.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
  const indices = new Map(borders.map((border, index) => [border, index]));
  const pieces = borders.slice(1).map((end, index) => ({ start: borders[index], end, tracks: [] }));
  const byLength = [...marks].sort((a, b) => a.end - a.start - (b.end - b.start) || a.number - b.number);
  for (const mark of byLength) {
    const covered = pieces.slice(indices.get(mark.start), indices.get(mark.end));
    let track = 0;
    while (covered.some((piece) => piece.tracks[track])) track += 1;
    for (const piece of covered) piece.tracks[track] = mark;
  }
  return pieces;
}

function drawText(text, pairs) {
  hideDetail();
  const units = unitOffsets(text);
  view.marks = marksOf(pairs);
  const fragment = document.createDocumentFragment();
  for (const { start, end, tracks } of cut(units.length - 1, view.marks)) {
    const tags = tracks.filter((mark) => mark.end === end).map(makeTag);
    const onward = tracks.map((mark) => (mark.end > end ? mark : undefined));
    const piece = document.createTextNode(text.slice(units[start], units[end]));
    fragment.append(underline(piece, tracks), ...tags.map((tag) => underline(tag, onward)));
  }
  $("text").replaceChildren(fragment);
  $("text").querySelector(".tag:not(.correct)")?.setAttribute("tabindex", 0);
}

function underline(node, tracks) {
  let lined = node;
  tracks.forEach((mark, track) => {
    if (!mark) return;
    const kind = slug(mark.pair.kind);
    lined = make("span", { class: `line ${kind} ${mark.side}`, "data-mark": mark.number, "data-track": track }, lined);
    lined.style.setProperty("--track", track);
  });
  if (lined !== node) lined.style.setProperty("--depth", tracks.length);
  return lined;
}

// The tag's words are generated content: they are neither selected nor copied with the text.
function makeTag(mark) {
  return make("span", {
    class: `tag ${slug(mark.pair.kind)} ${mark.side}`, role: "note", tabindex: -1, "data-of": mark.number,
    "data-tag": `${GLYPHS[mark.pair.kind]}${mark.label}`, "aria-label": describe(mark.pair).join(", "),
  });
}

function describe({ kind, gold, found, score }) {
  const words = [kind];
  const place = ({ start, end, label }) => `${label} at ${start}–${end}`;
  if (kind === "correct") words.push(place(gold));
  else words.push(...[gold && `gold ${place(gold)}`, found && `found ${place(found)}`].filter(Boolean));
  return found ? [...words, `score ${score.toFixed(2)}`] : words;
}

function showDetail(pairs, node) {
  const rows = pairs.map((pair) => {
    const [kind, ...rest] = describe(pair);
    const title = make("b", {}, `${GLYPHS[pair.kind]} ${kind}`.trim());
    return make("p", { class: slug(pair.kind) }, title, ` · ${rest.join(" · ")}`);
  });
  $("detail").replaceChildren(...rows);
  $("detail").hidden = false;
  placeDetail(node.getClientRects());
  highlight(pairs);
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

function highlight(pairs) {
  for (const node of $("text").querySelectorAll(".active")) node.classList.remove("active");
  for (const { number } of view.marks.filter(({ pair }) => pairs.includes(pair))) {
    const nodes = $("text").querySelectorAll(`[data-mark="${number}"], [data-of="${number}"]`);
    for (const node of nodes) node.classList.add("active");
  }
}

// The lines of one piece are nested, so the pointer is always on the innermost and its ancestors are the others.
function pairsAt(node) {
  if (node.dataset.of) return [view.marks[node.dataset.of].pair];
  const pairs = [];
  for (let top = node; top !== $("text"); top = top.parentElement) pairs.push(view.marks[top.dataset.mark].pair);
  for (const inner of node.querySelectorAll(".line")) pairs.unshift(view.marks[inner.dataset.mark].pair);
  return [...new Set(pairs)];
}

function focusPair(pair) {
  const { number } = view.marks.find((mark) => mark.pair === pair);
  const tag = $("text").querySelector(`[data-of="${number}"]`);
  tag.scrollIntoView({ block: "center" });
  tag.focus({ preventScroll: true });
}

function listenToText() {
  $("text").addEventListener("pointerover", (event) => {
    if (event.target === $("text")) hideDetail();
    else showDetail(pairsAt(event.target), event.target);
  });
  $("text").addEventListener("pointerleave", hideDetail);
  $("text").addEventListener("focusin", (event) => {
    const { pair } = view.marks[event.target.dataset.of];
    $("text").querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
    event.target.setAttribute("tabindex", 0);
    view.current = view.steps.indexOf(pair);
    drawStep();
    showDetail([pair], event.target);
  });
  $("text").addEventListener("focusout", hideDetail);
}

drawFilters();
refresh();
choose(view.rows[0] ?? null);
listenToText();
listenForSteps();
