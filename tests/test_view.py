"""`gpner view`, run as a user runs it, and its page in a real browser."""

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from playwright.sync_api import Page
from pyarrow import parquet

from gpner.cli import main
from gpner.view.counts import Frequent
from tests.page_fixtures import OpenPage

Row = dict[str, Any]
Show = Callable[..., Page]

# Texts of an entity, its start, label and score.
TEXT = "Ada Lovelace of the University of London met Ada in London ."
FOUND = [
    ("Ada Lovelace", 0, "PERSON", 0.97),
    ("University of London", 20, "ORGANISATION", 0.62),
    ("London", 34, "PLACE", 0.9),
    ("Ada", 45, "PERSON", 0.42),
    ("London", 52, "PLACE", 1.0),
]


def result(identity: str, text: str = TEXT, found: Sequence[tuple[str, int, str, float]] = FOUND, **more: Any) -> Row:
    """A row of results, without its text."""
    entities = [
        {"start": start, "end": start + len(surface), "label": label, "text": surface, "score": score}
        for surface, start, label, score in found
    ]
    own = {
        "tokens": len(text.split()),
        "windows": 1,
        "model": "runs/laws",
        "revision": "3f9c",
        "source": "in",
        "row": 0,
    }
    return {"id": identity, "entities": entities, **own, **more}


def with_text(identity: str, text: str = TEXT, found: Sequence[tuple[str, int, str, float]] = FOUND) -> Row:
    return result(identity, text, found) | {"text": text}


def everywhere(text: str, surface: str, label: str) -> list[tuple[str, int, str, float]]:
    starts = range(0, len(text), len(text) // text.count(surface))
    return [(surface, start, label, 0.5) for start in starts]


def lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows in the format that the path's ending names."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".zst":
        path.write_bytes(pyarrow.compress(lines(rows), codec="zstd", asbytes=True))
    else:
        path.write_bytes(gzip.compress(lines(rows)) if path.suffix == ".gz" else lines(rows))
    return path


def write_output(folder: Path, shards: Sequence[Sequence[Row]], ending: str = "parquet") -> Path:
    """The output of a bulk job that is done, of which every document is in the sample."""
    folder.mkdir()
    for number, rows in enumerate(shards):
        write(folder / f"part-{number:05d}.{ending}", rows)
    sample = [{"id": row["id"], "text": TEXT, "entities": row["entities"]} for rows in shards for row in rows]
    (folder / "sample.jsonl").write_bytes(lines(sample))
    (folder / "summary.json").write_text('{"state": "done"}')
    return folder


@pytest.fixture
def show(open_page: OpenPage, tmp_path: Path) -> Show:
    """View a source, or a file of some rows, and open the page."""

    def show_results(*results: Path | Row) -> Page:
        source = results[0] if isinstance(results[0], Path) else write(tmp_path / "results.jsonl", results)
        assert main(["view", str(source), "--output", str(tmp_path / "page.html")]) == 0
        return open_page(tmp_path / "page.html")

    return show_results


def headline(page: Page) -> dict[str, list[str]]:
    names = page.locator("#headline dt").all_inner_texts()
    return {
        name: text.split("\n") for name, text in zip(names, page.locator("#headline dd").all_inner_texts(), strict=True)
    }


def table(page: Page, name: str) -> list[list[str]]:
    """The words of each cell that has any, row by row."""
    rows = page.locator(f"#{name} tbody tr").all()
    return [[cell for cell in row.locator("td").all_inner_texts() if cell] for row in rows]


def listed(page: Page) -> list[str]:
    return page.locator("#list tbody button").all_inner_texts()


def marked(page: Page) -> list[str]:
    """The text under each mark, in the order of the marks."""
    return page.evaluate(
        """() => [...new Set([...document.querySelectorAll("#text [data-mark]")].map((node) => +node.dataset.mark))]
            .sort((left, right) => left - right)
            .map((mark) => [...document.querySelectorAll(`#text [data-mark="${mark}"]`)]
                .map((node) => node.textContent).join(""))"""
    )


def hits(page: Page) -> list[str]:
    return page.locator("#text mark").all_text_contents()


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_all_shards_of_an_output_are_counted_whatever_their_format(show, tmp_path, ending):
    shards = [[result("a"), result("b", windows=3)], [result("c", found=FOUND[:1])]]

    page = show(write_output(tmp_path / "laws", shards, ending))

    assert page.title() == "laws"
    assert page.locator("#corpus").inner_text() == "runs/laws 3f9c · 2 files"
    assert headline(page) == {
        "documents": ["3", "1 of them read in several windows"],
        "entities": ["11", "3.7 a document"],
        "different entities": ["4", "of 3 labels"],
        "tokens": ["36", "5 windows"],
        "failures": ["0", "every document was read"],
    }
    assert table(page, "labels") == [["PERSON", "5"], ["PLACE", "4"], ["ORGANISATION", "2"]]
    bars = page.locator("#labels td.bar i").evaluate_all("(all) => all.map((one) => one.style.width)")
    assert bars == ["100%", "80%", "40%"]
    assert table(page, "entities") == [
        ["London", "PLACE", "4"],
        ["Ada Lovelace", "PERSON", "3"],
        ["Ada", "PERSON", "2"],
        ["University of London", "ORGANISATION", "2"],
    ]
    assert listed(page) == ["a", "b", "c"]


def test_scores_are_counted_by_label_and_those_that_are_no_numbers_are_in_no_bar(show):
    page = show(result("a"), result("b", found=[("Ada", 0, "PERSON", float("nan")), ("Ada", 0, "PERSON", None)]))
    bars = page.locator("#charts rect title")

    def filled() -> list[str]:
        return [bar for bar in bars.all_text_contents() if not bar.startswith("0 ")]

    assert headline(page)["entities"][0] == "7"
    assert filled() == [
        "1 entities, score 0.4 to 0.45",
        "1 entities, score 0.6 to 0.65",
        "1 entities, score 0.9 to 0.95",
        "2 entities, score 0.95 to 1",
    ]
    page.locator("#label").select_option("PERSON")
    assert filled() == ["1 entities, score 0.4 to 0.45", "1 entities, score 0.95 to 1"]


def test_failures_are_counted_by_reason_with_the_first_of_each(show, tmp_path):
    folder = write_output(tmp_path / "laws", [[result("a")]])
    rows = [
        *(
            {"id": f"bad-{n}", "source": "in", "row": n, "reason": {"type": "EmptyText", "message": "no text"}}
            for n in "12"
        ),
        {"id": None, "source": "in", "row": None, "reason": {"type": "BrokenSource", "message": "cut off"}},
    ]
    (folder / "failures.jsonl").write_bytes(lines([*rows, "no failure"]))

    page = show(folder)

    assert headline(page)["failures"] == ["3", "listed below"]
    assert table(page, "failures") == [["EmptyText\nbad-1: no text", "2"], ["BrokenSource\ncut off", "1"]]
    assert len(table(page, "problems")) == 1


@pytest.mark.parametrize("summary", [None, '{"state": "stopped"}', "cut o"])
def test_a_job_that_is_not_done_is_viewed_as_far_as_it_is_and_says_so(show, tmp_path, summary):
    folder = write_output(tmp_path / "laws", [[result("a")]])
    (folder / "summary.json").unlink()
    (folder / "part-00001.parquet.unfinished").write_bytes(b"PAR1")
    if summary:
        (folder / "summary.json").write_text(summary)

    page = show(folder)

    assert headline(page)["documents"][0] == "1"
    assert "the job is not finished" in page.locator("#corpus").inner_text()


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.zst"])
def test_results_that_keep_their_texts_need_no_sample(show, tmp_path, ending):
    page = show(write(tmp_path / f"results.{ending}", [with_text("a"), with_text("b", "Nobody .", [])]))

    assert listed(page) == ["a", "b"]
    assert page.locator("#text").text_content() == TEXT


def test_entities_lie_in_the_text_and_nested_ones_under_one_another(show):
    page = show(with_text("a"))

    assert marked(page) == ["Ada Lovelace", "University of London", "London", "Ada", "London"]
    assert page.locator("#text").text_content() == TEXT
    assert page.locator("#step").inner_text() == "5 entities"
    tracks = page.locator("#text .line").evaluate_all(
        "(all) => all.map((one) => [one.dataset.mark, one.dataset.track])"
    )
    assert (dict(tracks)["2"], dict(tracks)["1"]) == ("0", "1")
    page.locator('#text [data-mark="2"]').hover()
    assert page.locator("#detail p").all_inner_texts() == [
        "PLACE · 34–40 · score 0.900",
        "ORGANISATION · 20–40 · score 0.620",
    ]


def test_a_search_holds_for_entities_and_documents(show):
    nobody = with_text("nobody", "Nobody lived in lon\n don .", [("lon\n don", 16, "PLACE", 0.5)])
    page = show(with_text("a"), nobody, with_text("b", "Ada in LONDON .", [("LONDON", 7, "PLACE", 0.5)]))

    page.locator("#query").fill(" london ")

    assert [entity for entity, *_ in table(page, "entities")] == ["London", "LONDON", "University of London"]
    assert listed(page) == ["a", "b"]
    assert hits(page) == ["London", "London"]
    assert page.locator("#step").inner_text() == "2 hits"
    page.locator("#query").fill("LON DON")
    assert listed(page) == ["nobody"]
    assert page.locator("#document-id").inner_text() == "nobody"
    assert hits(page) == ["lon\n don"]
    page.locator("#query").fill("nowhere")
    assert listed(page) == []
    assert table(page, "entities") == [["None of them fits."]]
    page.locator("#query").fill("")
    assert listed(page) == ["a", "nobody", "b"]


@pytest.mark.parametrize("query", [".*", "(", "a|b", "\\", "[x", "$&", "</script>"])
def test_a_search_is_for_characters_and_no_pattern(show, query):
    page = show(with_text("plain"), with_text("odd", f"Here {query} stands", []))

    page.locator("#query").fill(query)

    assert listed(page) == ["odd"]
    assert hits(page) == [query]


def test_a_search_finds_what_lies_behind_characters_of_two_units(show):
    text = "👩‍🚀 𝒢race met Ada 👍🏽 ."
    page = show(with_text("a", text, [("Ada", text.index("Ada"), "PERSON", 0.5)]))

    page.locator("#query").fill("ada")

    assert hits(page) == marked(page) == ["Ada"]
    assert page.locator("#text").text_content() == text


def test_a_label_is_filtered_everywhere(show):
    page = show(with_text("a"), with_text("b", found=FOUND[:1]))

    page.locator("#label").select_option("PLACE")

    assert table(page, "labels") == [["PLACE", "2"]]
    assert table(page, "entities") == [["London", "PLACE", "2"]]
    assert listed(page) == ["a"]
    assert marked(page) == ["London", "London"]


def test_the_page_is_worked_with_keys_alone(show):
    page = show(with_text("a"), with_text("b", "In London .", [("London", 3, "PLACE", 0.5)]))
    steps = []

    page.keyboard.press("/")
    page.keyboard.type("london")
    for _ in range(3):
        page.keyboard.press("Enter")
        steps.append((page.locator("#document-id").inner_text(), page.locator("#step").inner_text()))
        page.keyboard.press("/")

    assert steps == [("a", "1 of 2 hits"), ("a", "2 of 2 hits"), ("b", "1 of 1 hit")]
    page.locator("#query").fill("")
    page.locator("#list tbody button").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "PERSON, 0–12, score 0.970"
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()


def test_an_entity_in_the_table_is_searched_for_at_a_click(show):
    page = show(with_text("a"), with_text("b", "In London .", [("London", 3, "PLACE", 0.5)]))

    page.locator("#entities button").get_by_text("Ada Lovelace").click()

    assert page.locator("#query").input_value() == "Ada Lovelace"
    assert listed(page) == ["a"]
    assert hits(page) == ["Ada Lovelace"]


HOSTILE = "</script><img src=x onerror=alert(1)> <!--<script>alert(2)</script> \"'&amp;{{data}}\\1\u2028\u2029 $& -->"


def test_hostile_results_are_shown_as_they_are_and_run_nothing(show, tmp_path):
    hostile = with_text(
        f"id {HOSTILE}", HOSTILE, [(HOSTILE[:9], 0, "__proto__", 0.5), (HOSTILE[9:37], 9, HOSTILE, 0.5)]
    )
    folder = tmp_path / "a <b> & {{data}}"
    write_output(folder, [[hostile | {"model": HOSTILE}]], "jsonl")
    (folder / "sample.jsonl").write_bytes(lines([hostile]))
    failure = {"id": HOSTILE, "reason": {"type": HOSTILE, "message": HOSTILE}}
    (folder / "failures.jsonl").write_bytes(lines([failure]))

    page = show(folder)

    assert page.title() == page.locator("h1").text_content() == "a <b> & {{data}}"
    assert page.locator("#text").text_content() == HOSTILE
    assert page.locator("#document-id").text_content() == f"id {HOSTILE}"
    assert page.locator("#labels td:first-child").all_text_contents() == ["__proto__", HOSTILE]
    assert page.locator("#entities button").all_text_contents() == [HOSTILE[:9], HOSTILE[9:37]]
    assert page.locator("#failures td").first.text_content() == f"{HOSTILE}{HOSTILE}: {HOSTILE}"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_unseen_characters_are_shown_by_their_codes_and_endless_names_by_their_beginning(show, tmp_path):
    text = "abc\u202edef\u200b ghi"
    page = show(with_text("i" * 1_000_000, text, [(text[:7], 0, "L" * 1_000_000, 0.5)]))

    shown = page.locator("#text .unseen, #entities .unseen").evaluate_all(
        "(all) => all.map((one) => one.dataset.codes)"
    )
    assert sorted(shown) == ["U+200B", "U+202E", "U+202E"]
    assert page.locator("#text").text_content() == text
    assert page.locator("#document-id").text_content() == "i" * 199 + "…"
    assert table(page, "labels") == [["L" * 199 + "…", "1"]]
    assert page.locator("#text .tag").get_attribute("data-tag") == "L" * 29 + "…"
    assert (tmp_path / "page.html").stat().st_size < 100_000


def test_broken_lines_and_files_are_told_with_their_place_and_the_rest_is_shown(show, tmp_path, capsys):
    folder = write_output(tmp_path / "laws", [[result("a")]], "jsonl.gz")
    whole = gzip.compress(lines(result(f"{number}", found=[]) for number in range(5000)))
    (folder / "part-00001.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "part-00002.parquet").write_bytes(b"PAR1 and no more")
    parquet.write_table(pyarrow.table({"id": ["a"]}), folder / "part-00003.parquet")
    broken = [b"no json", b"[1]", b'{"id": "no entities"}', b'{"entities": [{"label": 1}]}', b'"\xff"', b"[" * 100_000]
    broken += [b'{"entities": [{"label": 1, "text": "x", "score": 0.5}]}', b'{"entities": [], "tokens": "many"}']
    (folder / "part-00004.jsonl").write_bytes(b"\n".join([*broken, lines([result("b")])]))

    page = show(folder)
    told = capsys.readouterr().err.splitlines()

    assert int(headline(page)["documents"][0].replace(",", "")) > 2
    assert headline(page)["entities"][0] == "10"
    assert len(table(page, "problems")) == len(told) == 3 + len(broken)
    assert f"{folder}/part-00003.parquet: must be a readable Parquet file of results" in told[2]
    places = [f"{folder}/part-00004.jsonl:{number}: " for number in range(1, len(broken) + 1)]
    assert all(line.startswith(place) for line, place in zip(told[3:], places, strict=True))


def test_a_broken_entity_of_a_document_is_never_drawn_at_a_wrong_place(show):
    page = show(with_text("a"), with_text("b", "short", [("long", 3, "X", 0.5)]), with_text("c", found=FOUND[:1]))

    assert listed(page) == ["a", "c"]
    assert "an entity must lie in the text of 5 characters, one was at 3-7" in table(page, "problems")[0][0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "what is viewed must be a folder or a file of results"),
        ({}, "a folder of results must hold shards"),
        (
            {"part-00000.jsonl": b"no json\n"},
            "none could be read; the first problem: .*part-00000.jsonl:1: a line must be",
        ),
    ],
    ids=["nothing", "empty", "no results"],
)
def test_what_holds_no_results_is_one_clear_error(tmp_path, capsys, content, complaint):
    if content is not None:
        (tmp_path / "laws").mkdir()
        for name, data in content.items():
            (tmp_path / "laws" / name).write_bytes(data)

    assert main(["view", str(tmp_path / "laws")]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(f"^error: .*{complaint}", error)
    assert not list(tmp_path.rglob("*.html*"))


def test_the_page_lies_beside_the_results_if_no_other_place_is_named(tmp_path, capsys):
    folder = write_output(tmp_path / "laws", [[result("a")]])
    file = write(tmp_path / "one.jsonl.gz", [result("a")])

    assert main(["view", str(folder)]) == main(["view", str(file)]) == 0

    assert (folder / "view.html").is_file()
    assert (tmp_path / "one.jsonl.gz.html").is_file()
    told = f"documents: 1, entities: 5, failures: 0, problems: 0; the page is {folder}/view.html"
    assert capsys.readouterr().out.splitlines()[0] == told


@pytest.mark.parametrize("page", ["results.jsonl", "missing/page.html", "."])
def test_a_page_that_has_no_place_is_refused_and_changes_nothing(tmp_path, capsys, page):
    file = write(tmp_path / "results.jsonl", [result("a")])

    assert main(["view", str(file), "--output", str(tmp_path / page)]) == 2

    assert "the page must" in capsys.readouterr().err
    assert file.read_bytes() == lines([result("a")])
    assert list(tmp_path.iterdir()) == [file]


def test_results_without_texts_or_documents_have_a_page_too(show, tmp_path):
    page = show(result("a"))
    assert headline(page)["entities"][0] == "5"
    assert page.locator("#documents p").last.inner_text().startswith("There is no text to show")
    page.locator("#label").select_option("PLACE")
    page.locator("#query").fill("lon")
    assert table(page, "entities") == [["London", "PLACE", "2"]]

    (tmp_path / "nothing.jsonl").touch()
    page = show(tmp_path / "nothing.jsonl")
    assert headline(page)["documents"] == ["0", "0 of them read in several windows"]


def test_the_sample_is_bounded_and_chosen_by_the_ids_alone(show, tmp_path):
    rows = [with_text(f"doc-{number}") for number in range(500)]
    rows.append(with_text("endless", "Ada " * 2_000_000, []))

    first = sorted(listed(show(*rows)))
    random.Random(1).shuffle(rows)
    second = sorted(listed(show(*rows)))

    assert len(first) == 200
    assert first == second
    assert "endless" not in first
    assert (tmp_path / "page.html").stat().st_size < 1_000_000


def test_a_document_of_sixty_thousand_characters_opens_and_is_searched(show):
    text = "Ada Lovelace wrote to Charles Babbage in London about the engine .\n" * 900
    page = show(with_text("long", text, everywhere(text, "Ada Lovelace", "PERSON")))

    assert len(text) > 60_000
    assert page.locator("#text .tag").count() == 900
    page.locator("#query").fill("babbage")
    assert page.locator("#step").inner_text() == "900 hits"
    assert hits(page) == ["Babbage"] * 900
    assert page.locator("#text").text_content() == text


def test_fifty_thousand_overlapping_spans_do_not_hang_the_page(show):
    text = "Ada Lovelace wrote to Charles Babbage in London . " * 1000
    found = [
        (text[start : start + length], start, f"L{length}", 0.5)
        for length in (1, 9, 25, 400, 8000)
        for start in range(10_000)
    ]
    started = time.monotonic()

    page = show(with_text("first", "Ada", []), with_text("everywhere", text, found))
    page.get_by_role("button", name="everywhere").click()
    page.keyboard.press("k")
    page.locator("#label").select_option("L25")

    assert headline(page)["entities"][0] == "50,000"
    assert "spans are not drawn: more than 12 lie in one place" in page.locator("#undrawn").inner_text()
    assert page.locator("*").count() < 200_000
    assert time.monotonic() - started < 60


def test_a_corpus_of_unseen_characters_is_drawn_in_parts(show):
    text = "\u200ba" * 20_000
    page = show(with_text("unseen", text, []))

    assert page.locator("#text .unseen").count() < 3000
    assert page.locator("#part").inner_text().startswith("part 1 of ")


def test_the_page_prints_in_full_on_paper_white(show, tmp_path):
    page = show(with_text("a"))

    page.emulate_media(media="print", color_scheme="dark")
    background = page.locator("body").evaluate("(node) => getComputedStyle(node).backgroundColor")
    heights = page.locator(".tall").evaluate_all("(all) => all.map((one) => one.scrollHeight - one.clientHeight)")
    hidden = page.locator("#filters label").evaluate_all("(all) => all.every((one) => !one.checkVisibility())")
    page.emulate_media(media="null", color_scheme="null")

    assert background == "rgb(255, 255, 255)"
    assert max(heights) <= 1
    assert hidden


def test_a_phone_need_not_scroll_sideways(show):
    page = show(with_text("b" * 300, "Ada " * 300, [("Ada " * 250, 0, "L" * 100, 0.5), ("Ada", 0, "M" * 100, 0.5)]))
    usual = page.viewport_size
    page.set_viewport_size({"width": 360, "height": 740})
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(usual)

    assert width == 360


def test_counts_of_more_entities_than_there_is_room_for_are_within_the_shortfall():
    generator = random.Random(0)
    surfaces = [(f"{int(generator.paretovariate(0.3))}", 0) for _ in range(50_000)]
    true = Counter(surfaces)
    frequent = Frequent(most_counted=500)

    for start in range(0, len(surfaces), 100):
        frequent.add(surfaces[start : start + 100])

    assert len(true) > 5 * 500
    assert len(frequent.counts) <= 500 < frequent.distinct <= len(true)
    assert 0 < frequent.shortfall < 50_000 / 250
    for surface, count in frequent.counts.items():
        assert count <= true[surface] <= count + frequent.shortfall
    often = {surface for surface, count in true.items() if count > frequent.shortfall}
    assert often <= frequent.counts.keys()


def test_a_page_says_that_more_entities_differ_than_were_counted(show, tmp_path):
    def surfaces(start: int, end: int) -> Iterable[tuple[str, int, str, float]]:
        return [(f"Entity {number}", 0, "X", 0.5) for number in range(start, end)]

    rows = [result(f"{start}", found=[*surfaces(start, start + 500), *FOUND]) for start in range(0, 300_000, 500)]

    page = show(*rows)

    assert table(page, "entities")[0][:2] == ["London", "PLACE"]
    assert 1200 - 1 <= int(table(page, "entities")[0][2].replace(",", "")) <= 1200
    assert headline(page)["different entities"][0].startswith("at least 2")
    note = page.locator("#entities caption small").inner_text()
    assert re.match(r"The 10,0\d\d most frequent are in this page. At least 2\d\d,\d\d\d differ, so", note)
    assert note.endswith("a count may be too low, by 1 at most.")
    assert table(page, "entities")[-1] == ["and 9,900 more"]
    assert (tmp_path / "page.html").stat().st_size < 2_000_000


def test_counts_are_exact_where_there_is_room():
    surfaces = [(f"{number % 7}", number % 2) for number in range(1000)]
    frequent = Frequent(most_counted=14)

    frequent.add(surfaces)

    assert frequent.counts == Counter(surfaces)
    assert (frequent.distinct, frequent.shortfall) == (14, 0)


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from gpner.cli import main
sys.exit(main(["view", sys.argv[1]]))
"""


def test_json_lines_need_no_pyarrow_and_parquet_says_how_to_get_it(tmp_path):
    def view(path: Path) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW, path], capture_output=True, text=True)
        return done.returncode, done.stderr

    plain, table = (write(tmp_path / f"results.{ending}", [result("a")]) for ending in ("jsonl.gz", "parquet"))

    assert view(plain) == (0, "")
    code, complaint = view(table)
    assert code == 2
    assert complaint.endswith("only with the package pyarrow, it is not installed; run `pip install 'gpner[bulk]'`\n")


# The kernel's own figure: what getrusage tells may be the peak of the process that started this one.
PEAK = """
import sys
from pathlib import Path
from gpner.cli import main
assert main(["view", sys.argv[1]]) == 0
assert not {"torch", "transformers"} & sys.modules.keys()
status = Path("/proc/self/status").read_text().splitlines()
print(*(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, ending):
    peaks = []
    rows = [result(f"doc-{number}", found=FOUND * 4) for number in range(5_000)]

    for shards in (1, 10):
        folder = write_output(tmp_path / f"{shards}", [rows], ending)
        for number in range(1, shards):
            shutil.copy(folder / f"part-00000.{ending}", folder / f"part-{number:05d}.{ending}")
        done = subprocess.run([sys.executable, "-c", PEAK, folder], capture_output=True, check=True, text=True)
        assert f"entities: {shards * 100_000}" in done.stdout
        peaks.append(int(done.stdout.split()[-1]))

    assert peaks[1] < 1.15 * peaks[0]


def test_texts_of_a_megabyte_are_not_all_held_at_once(tmp_path):
    rows = [with_text(f"doc-{number}", TEXT + f"{number:07d}" * 140_000) for number in range(20)]
    part = pyarrow.Table.from_pylist(rows)
    with parquet.ParquetWriter(tmp_path / "results.parquet", part.schema) as writer:
        writer.write_table(pyarrow.concat_tables([part] * 15))
    del rows, part

    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "results.parquet"], capture_output=True, check=True, text=True
    )

    assert "documents: 300" in done.stdout
    assert int(done.stdout.split()[-1]) < 400_000  # kilobytes; the texts are 300 MB, each of them twice


@pytest.mark.integration
def test_the_output_of_a_real_bulk_job_is_shown(show, tmp_path):
    texts = [f"ROW {number} of a corpus with SOME CAPITALS" for number in range(30)]
    (tmp_path / "in.jsonl").write_bytes(lines({"id": f"doc-{n}", "text": text} for n, text in enumerate(["", *texts])))
    command = [sys.executable, "-m", "worker.cli", "bulk", "in.jsonl", "--output", "out", "--local"]
    surroundings = {"GPNER_ENGINE": "tests.engines:load_capitals", "PYTHONPATH": str(Path(__file__).parents[1])}
    job = subprocess.run(
        [*command, "--shard-documents", "10"], cwd=tmp_path, env={**os.environ, **surroundings}, timeout=100
    )

    page = show(tmp_path / "out")

    assert job.returncode == 1
    assert page.locator("#corpus").inner_text() == "capitals 0123456789ab · 4 files"
    assert headline(page)["documents"][0] == "30"
    assert headline(page)["failures"][0] == "1"
    assert len(listed(page)) == 30
    assert marked(page) == ["ROW", "SOME", "CAPITALS"]
