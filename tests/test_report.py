"""The page of an evaluation, in a real browser: it says what the evaluation says, and foreign text stays text."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from gpner.entities import Entity, Extraction
from gpner.errors import ConfigError
from gpner.evaluation import Evaluation, evaluate_extractions
from gpner.evaluation.pairing import EntitySpan
from gpner.examples import Example
from gpner.report import write_report
from tests.page_fixtures import OpenPage

# An example and what was found in it.
Document = tuple[Example, Extraction]
Show = Callable[..., Page]


@pytest.fixture
def show(open_page: OpenPage, tmp_path: Path) -> Show:
    """Open the page of some documents."""

    def show_documents(*documents: Document, model_name: str = "a-model") -> Page:
        return open_page(write(tmp_path / "page.html", *documents, model_name=model_name))

    return show_documents


def document(identity: str, text: str, gold: list[EntitySpan], found: list[EntitySpan]) -> Document:
    entities = tuple(Entity(*span, text[span[0] : span[1]], 0.75) for span in found)
    return Example(identity, text, tuple(gold)), Extraction(entities, tokens=len(text), windows=1)


def score(*documents: Document) -> Evaluation:
    return evaluate_extractions([example for example, _ in documents], [extraction for _, extraction in documents])


def write(path: Path, *documents: Document, model_name: str = "a-model") -> Path:
    examples, extractions = zip(*documents, strict=True)
    write_report(path, model_name=model_name, evaluation=score(*documents), examples=examples, extractions=extractions)
    return path


# One of each kind, in the order of the text, and a second document with one more that is missed.
TEXT = "Ada met Grace in New York , where Alan and Kurt lived ."
GOLD = [(0, 3, "PER"), (8, 13, "PER"), (17, 25, "LOC"), (34, 38, "PER")]
FOUND = [(0, 3, "PER"), (8, 13, "LOC"), (21, 25, "LOC"), (43, 47, "PER")]
ONE_OF_EACH = document("each", TEXT, GOLD, FOUND)
ONE_MISSED = document("missed", "Zuse , too", [(0, 4, "PER")], [])


def marked(page: Page) -> list[str]:
    """The text under each mark, in the order of the marks."""
    return page.evaluate(
        """() => [...new Set([...document.querySelectorAll("#text [data-mark]")].map((node) => +node.dataset.mark))]
            .sort((left, right) => left - right)
            .map((mark) => [...document.querySelectorAll(`#text [data-mark="${mark}"]`)]
                .map((node) => node.textContent).join(""))"""
    )


def listed(page: Page) -> list[str]:
    return page.locator("#list tbody button").all_inner_texts()


def rows(page: Page) -> list[list[str]]:
    return [row.split() for row in page.locator("#list tbody tr").all_inner_texts()]


def test_the_page_shows_the_figures_of_the_evaluation(show):
    evaluation = score(ONE_OF_EACH, ONE_MISSED)

    page = show(ONE_OF_EACH, ONE_MISSED, model_name="runs/mine")

    assert page.title() == "runs/mine"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("#corpus").inner_text().endswith("5 gold entities · 4 found · 1 correct")
    headline = page.locator("#headline dd").all_inner_texts()
    low, high = evaluation.interval.low, evaluation.interval.high
    assert headline[0].split("\n") == [f"{evaluation.micro.f1:.3f}", f"95 % interval {low:.3f}–{high:.3f}"]
    shown = [re.match(r"[\d.]+", figure).group() for figure in headline[1:]]
    micro, lenient = evaluation.micro, (evaluation.macro, evaluation.boundaries, evaluation.types)
    assert shown == [f"{value:.3f}" for value in (micro.precision, micro.recall, *(scores.f1 for scores in lenient))]
    of_labels = page.locator("table.scores").first.locator("tbody tr").all_inner_texts()
    for row, (label, scores) in zip(of_labels, [*evaluation.by_label.items(), ("all", micro)], strict=True):
        rates = [f"{value:.3f}" for value in (scores.precision, scores.recall, scores.f1)]
        assert row.split() == [label, str(scores.gold), str(scores.found), str(scores.correct), *rates]


def test_the_kinds_are_counted_as_in_the_evaluation(show):
    page = show(ONE_OF_EACH, ONE_MISSED)

    names = page.locator(".kind input").evaluate_all("(boxes) => boxes.map((box) => box.value)")
    counts = map(int, page.locator(".kind .count").all_inner_texts())
    assert dict(zip(names, counts, strict=True)) == score(ONE_OF_EACH, ONE_MISSED).kinds
    assert rows(page) == [["each", "55", "4", "0.250"], ["missed", "10", "1", "0.000"]]


def test_every_breakdown_and_both_charts_are_drawn(show):
    page = show(ONE_OF_EACH)

    titles = page.locator("caption, figcaption").evaluate_all("(all) => all.map((one) => one.firstChild.textContent)")
    tables = ["By label", "By length of document", "By length of entity", "By nesting"]
    assert titles == [*tables, "Scores of found entities", "Reliability"]
    bars = page.locator("#charts rect title").all_text_contents()
    filled = [bar for bar in bars if not bar.startswith("0 ")]
    assert filled == ["1 correct, score 0.75 to 0.8", "3 wrong, score 0.75 to 0.8"]


def test_a_mark_is_the_text_of_its_span_and_pairs_show_both(show):
    page = show(ONE_OF_EACH)

    assert marked(page) == ["Ada", "Grace", "Grace", "New York", "York", "Alan", "Kurt"]
    assert page.locator("#text .tag").evaluate_all("(tags) => tags.map((tag) => tag.dataset.tag)") == [
        *("PER", "×PER", "×LOC", "↔LOC", "↔LOC", "−PER", "+PER")
    ]
    assert page.locator("#text").text_content() == TEXT


def test_filtering_by_kind_hides_other_spans_and_the_documents_without(show):
    page = show(ONE_OF_EACH, ONE_MISSED)

    for kind in ("correct", "wrong boundary", "missed", "spurious"):
        page.locator(f'.kind input[value="{kind}"]').uncheck()

    assert marked(page) == ["Grace", "Grace"]
    assert page.locator("#text").text_content() == TEXT
    assert listed(page) == ["each"]
    page.locator('.kind input[value="wrong label"]').uncheck()
    assert listed(page) == []
    assert page.locator("#unlisted").inner_text() == "No document has such a span."


def test_filtering_by_label_keeps_pairs_that_have_it_on_either_side(show):
    page = show(ONE_OF_EACH, ONE_MISSED)

    page.locator("#label").select_option("LOC")

    assert marked(page) == ["Grace", "Grace", "New York", "York"]
    assert listed(page) == ["each"]


def test_a_chosen_document_is_shown_and_the_list_sorts(show):
    page = show(ONE_OF_EACH, ONE_MISSED, document("blank", "Nobody .", [], []))

    assert listed(page) == ["each", "missed", "blank"]
    page.get_by_role("button", name="length").click()
    page.get_by_role("button", name="length").click()
    assert listed(page) == ["blank", "missed", "each"]
    page.get_by_role("button", name="missed", exact=True).click()
    assert page.locator("#document-id").inner_text() == "missed"
    assert page.locator("#list [aria-current] button").inner_text() == "missed"
    assert marked(page) == ["Zuse"]


def test_keys_step_through_the_errors_and_on_to_the_next_document(show):
    page = show(ONE_OF_EACH, ONE_MISSED)
    steps = []

    for key in ("j", "j", "ArrowRight", "j", "j", "k"):
        page.keyboard.press(key)
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
        steps.append((page.locator("#step").inner_text(), focused.split(",")[0]))

    assert steps == [
        ("1 of 4 errors", "wrong label"),
        ("2 of 4 errors", "wrong boundary"),
        ("3 of 4 errors", "missed"),
        ("4 of 4 errors", "spurious"),
        ("1 of 1 error", "missed"),
        ("4 of 4 errors", "spurious"),
    ]


def test_pointing_at_a_span_tells_all_that_lie_there(show):
    page = show(document("nested", "New York University", [(0, 19, "ORG"), (0, 8, "LOC")], [(0, 19, "ORG")]))

    page.locator("#text .line").get_by_text("New York", exact=True).last.hover()

    assert page.locator("#detail p").all_inner_texts() == [
        "− missed · gold LOC at 0–8",
        "correct · ORG at 0–19 · score 0.75",
    ]


def test_nested_and_crossing_spans_are_underlined_on_their_own_tracks(show):
    spans = [(0, 12, "A"), (4, 8, "B"), (4, 8, "C"), (6, 16, "D"), (20, 24, "E"), (0, 24, "F")]
    page = show(document("stacked", "abcdefghijklmnopqrstuvwx", spans, spans))

    lines = page.locator("#text [data-mark]").evaluate_all(
        """(nodes) => nodes.map((node) => ({ mark: +node.dataset.mark, track: +node.dataset.track,
            bottom: Math.round(node.getBoundingClientRect().bottom) }))"""
    )

    tracks = {line["mark"]: line["track"] for line in lines}
    heights = {line["mark"]: line["bottom"] for line in lines}
    order = sorted(spans)
    for left, (start, end, _) in enumerate(order):
        assert len({line["track"] for line in lines if line["mark"] == left}) == 1
        for right, (other_start, other_end, _) in enumerate(order[:left]):
            if start < other_end and other_start < end:
                assert tracks[left] != tracks[right]
                assert heights[left] != heights[right]
    assert marked(page) == ["abcdefghijklmnopqrstuvwx"[start:end] for start, end, _ in order]


@pytest.mark.parametrize(
    "text",
    [
        "👩‍🚀 Ada 👍🏽 met 𝒢race 🇫🇷 .",
        "קראה עדה לאבלייס בלונדון ، وكتبت آدا .",
        "北京市人民政府位于北京，𠮷野家在上海。",
        "Zoe\u0308 and Jose\u0301 \u0301 .",
        "two\n\nlines\tand  blanks\r\nand a zero\u0000 .",
    ],
    ids=["emoji", "right-to-left", "chinese", "combining", "controls"],
)
def test_offsets_count_code_points_in_every_script(show, text):
    generator = random.Random(0)
    spans = {tuple(sorted(generator.sample(range(len(text) + 1), 2))) for _ in range(12)}
    gold = [(start, end, "X") for start, end in sorted(spans)]

    page = show(document("script", text, gold, gold))

    assert marked(page) == [text[start:end] for start, end, _ in gold]
    assert page.locator("#text").text_content() == text
    assert page.locator("#text").evaluate("(node) => getComputedStyle(node).whiteSpace") == "pre-wrap"


HOSTILE = "</script><img src=x onerror=alert(1)> <!--<script>alert(2)</script> \"'&amp;{{data}}\\1\u2028\u2029 $& -->"


def test_hostile_text_ids_and_labels_are_shown_as_they_are_and_run_nothing(show):
    hostile = document(f"id {HOSTILE}", HOSTILE, [(0, 9, f"label {HOSTILE}")], [(0, 9, "__proto__")])

    page = show(hostile, model_name=f"model {HOSTILE}")
    page.locator("#text .line").first.hover()

    assert page.locator("#text").text_content() == HOSTILE
    assert page.locator("#document-id").text_content() == f"id {HOSTILE}"
    assert page.locator("#list tbody button").text_content() == f"id {HOSTILE}"
    assert page.locator("h1").text_content() == f"model {HOSTILE}"
    assert page.locator("#label option").all_text_contents() == ["all labels", "__proto__", f"label {HOSTILE}"]
    assert f"label {HOSTILE}" in page.locator("#detail").text_content()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_a_document_of_sixty_thousand_characters_opens_and_is_stepped_through(show):
    text = "Ada Lovelace wrote to Charles Babbage in London about the engine .\n" * 900
    starts = range(0, len(text), 67)
    gold = [(start, start + 12, "PER") for start in starts] + [(start + 41, start + 47, "LOC") for start in starts]
    found = [span for number, span in enumerate(gold) if number % 3]

    page = show(document("long", text, gold, found))
    page.keyboard.press("k")

    assert len(text) > 60_000
    assert page.locator("#text .tag").count() == len(gold) == 1800
    assert page.locator("#text").text_content() == text
    assert page.locator("#step").inner_text() == "600 of 600 errors"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top < innerHeight")


def test_fifty_thousand_overlapping_spans_open_and_say_what_is_not_drawn(show):
    text = "Ada Lovelace wrote to Charles Babbage in London . " * 1000
    found = [
        (start, min(len(text), start + length), "X") for length in (1, 9, 25, 400, 8000) for start in range(10_000)
    ]

    page = show(document("everywhere", text, [], found))
    tracks = [track for track in range(20) if page.locator(f'#text [data-track="{track}"]').count()]
    undrawn, _, note = page.locator("#undrawn").inner_text().partition(" ")
    drawn = page.locator("#step").inner_text().removesuffix(" errors")

    assert tracks == list(range(12))
    assert note == "spans are not drawn: more than 12 lie in one place. Filter to see others."
    assert int(undrawn.replace(",", "")) + int(drawn.replace(",", "")) == len(found) == 50_000
    page.keyboard.press("k")
    assert page.locator("#step").inner_text() == f"{drawn} of {drawn} errors"
    assert page.locator("*").count() < 200_000


def test_a_long_text_is_drawn_in_parts_that_end_with_a_blank_and_lose_nothing(show):
    text = "Ada met Grace 𝒢 . " * 15_000
    gold = [(start, start + 3, "PER") for start in range(0, len(text), 1800)]
    page = show(document("long", text, gold, []))
    names, parts = [], []

    while True:
        names.append(page.locator("#part").inner_text().split(",")[0])
        parts.append(page.locator("#text").text_content())
        if page.locator("#next-part").is_disabled():
            break
        page.locator("#next-part").click()

    assert names == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]
    assert "".join(parts) == text
    assert all(part.endswith(" ") for part in parts)


def test_steps_lead_through_the_parts_of_a_long_text(show):
    text = "Ada met Grace . " * 20_000
    page = show(document("long", text, [(0, 3, "PER"), (99_990, 100_100, "LOC"), (300_000, 300_003, "PER")], []))
    visited = []

    for _ in range(3):
        page.keyboard.press("j")
        tag = page.evaluate("document.activeElement.dataset.tag")
        visited.append((tag, page.locator("#part").inner_text().split(",")[0], page.locator("#step").inner_text()))

    assert visited == [
        ("−PER", "part 1 of 4", "1 of 3 errors"),
        ("−LOC", "part 2 of 4", "2 of 3 errors"),
        ("−PER", "part 4 of 4", "3 of 3 errors"),
    ]


def test_unseen_characters_are_shown_by_their_codes_and_turn_no_text_around(show):
    text = "abc\u202edef\u200b ghi"
    page = show(document("\u2066id", text, [(0, 7, "X")], []))

    lefts = page.locator("#text").evaluate(
        """(node) => {
            const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
            const lefts = {};
            for (let text = walker.nextNode(); text; text = walker.nextNode()) {
                [...text.data].forEach((letter, index) => {
                    const range = document.createRange();
                    range.setStart(text, index);
                    range.setEnd(text, index + 1);
                    if (/[a-i]/.test(letter)) lefts[letter] = range.getBoundingClientRect().left;
                });
            }
            return lefts;
        }"""
    )

    assert sorted(lefts, key=lefts.get) == list("abcdefghi")
    codes = page.locator("#text .unseen, #document-id .unseen").evaluate_all(
        "(all) => all.map((one) => one.dataset.codes)"
    )
    assert sorted(codes) == ["U+200B", "U+202E", "U+2066"]
    assert page.locator("#text").text_content() == text


def test_a_corpus_without_entities_has_a_page_too(show):
    page = show(document("blank", "", [], []))

    assert page.locator("#headline dd").first.inner_text().startswith("0.000")
    assert rows(page) == [["blank", "0", "0", "–"]]
    assert page.locator("#step").inner_text() == "0 errors"


def test_the_page_follows_the_readers_choice_of_light_or_dark(show):
    page = show(ONE_OF_EACH)

    def brightness(scheme: Literal["dark", "light"]) -> int:
        page.emulate_media(color_scheme=scheme)
        color = page.locator("body").evaluate("(node) => getComputedStyle(node).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness("dark") < 150 < 600 < brightness("light")


def test_a_phone_need_not_scroll_sideways(show):
    page = show(ONE_OF_EACH, ONE_MISSED)
    usual = page.viewport_size
    page.set_viewport_size({"width": 360, "height": 740})
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(usual)

    assert width == 360


def test_the_page_is_about_as_large_as_its_texts(tmp_path):
    text = "Ada Lovelace wrote to Charles Babbage in London . " * 200
    gold = [(start, start + 12, "PER") for start in range(0, len(text), 100)]
    documents = [document(f"{number}", text, gold, gold[number:]) for number in range(20)]

    page = write(tmp_path / "page.html", *documents)

    assert page.stat().st_size < 1.5 * 20 * len(text)


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"the page must be a file that can be written, .*missing/page.html cannot"):
        write(tmp_path / "missing" / "page.html", ONE_OF_EACH)
