"""The entities of a whole corpus as one page of HTML: figures over all documents, and a sample of them to read.

However large the corpus is, it is read once, in memory that does not grow with it. No torch here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpner.errors import ConfigError
from gpner.report.page import write_page
from gpner.view.counts import Counts
from gpner.view.failures import count_failures
from gpner.view.files import Output, find_output
from gpner.view.problems import Problems
from gpner.view.results import read_batches
from gpner.view.sample import Sample, read_sample

SCRIPTS = ("page.js", "charts.js", "results.js", "documents.js", "marks.js", "entities.js")
NO_FAILURES: dict[str, Any] = {"total": 0, "reasons": []}


@dataclass(frozen=True, slots=True)
class View:
    """What went into a page; `problems` are lines and files that hold no result."""

    documents: int
    entities: int
    failures: int
    problems: Problems


def write_view(source: Path, page: Path, *, reading: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> View:
    """Write the page; a file that is there already is replaced only by a whole page.

    Args:
        source: The output folder of a bulk job, or one file of results: JSON lines, plain or compressed, or Parquet.
        page: The file to write.
        reading: Gives the files back one by one, so that progress can be shown.

    Raises:
        ConfigError: If there are no results, the page would replace them, or it cannot be written.
    """
    output = find_output(source)
    _check_page(page, output)
    counts, problems = Counts(), Problems()
    sample = read_sample(output.sample, problems) if output.sample else Sample()
    for file in reading(output.results):
        for batch in read_batches(file, problems, None if output.sample else sample):
            counts.add(batch)
    if problems.total and not counts.documents:
        raise ConfigError(f"{source} must hold results, none could be read; the first problem: {problems.first[0]}")
    failures = count_failures(output.failures, problems) if output.failures else NO_FAILURES
    title = source.resolve().name
    documents = sample.to_list(counts.number)
    content = {
        **counts.to_dict(),
        "title": title,
        "files": len(output.results),
        "isFinished": output.is_finished,
        "documents": documents,
        "failures": failures,
        "problems": problems.to_dict(),
    }
    write_page(page, title=title, body="results.html", scripts=SCRIPTS, content=content)
    return View(counts.documents, counts.entities, failures["total"], problems)


def _check_page(page: Path, output: Output) -> None:
    """Find out before millions of results are read whether their page has a place."""
    if page.is_dir() or not page.parent.is_dir():
        raise ConfigError(f"the page must be a file in a folder that is there, was: {page}")
    if page.resolve() in {file.resolve() for file in output.files}:
        raise ConfigError(f"the page must not replace what it shows, {page} is part of it; name another file")
