"""An evaluation as one page of HTML: the figures, and every document with what was found, missed and mistaken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpner.report.page import SCORE_DIGITS, shortened, write_page

# Only annotations name these: other pages are built from this package, and need no torch.
if TYPE_CHECKING:
    from gpner.entities import Extraction
    from gpner.evaluation import Evaluation
    from gpner.evaluation.pairing import EntitySpan, Pair
    from gpner.examples import Example

SCRIPTS = ("page.js", "charts.js", "evaluation.js", "documents.js", "marks.js", "pairs.js")


def write_report(
    path: Path,
    *,
    model_name: str,
    evaluation: Evaluation,
    examples: Sequence[Example],
    extractions: Sequence[Extraction],
) -> None:
    """Write the page; a file that is there already is replaced only by a whole page.

    Args:
        path: The file to write.
        model_name: What the page calls the model.
        evaluation: The scores of the extractions.
        examples: The documents with their gold entities.
        extractions: What was found in each of them, in the same order.

    Raises:
        ConfigError: If the file cannot be written.
    """
    documents = zip(examples, extractions, evaluation.documents, strict=True)
    labels = {label: index for index, label in enumerate(evaluation.by_label)}
    kinds = {kind: index for index, kind in enumerate(evaluation.kinds)}
    content = {
        "model": model_name,
        "labels": list(labels),
        "scores": evaluation.to_dict(),
        "documents": [_document(*document, labels, kinds) for document in documents],
    }
    write_page(path, title=model_name, body="evaluation.html", scripts=SCRIPTS, content=content)


def _document(
    example: Example, extraction: Extraction, pairs: Sequence[Pair], labels: dict[str, int], kinds: dict[str, int]
) -> dict[str, Any]:
    scores = {(entity.start, entity.end, entity.label): entity.score for entity in extraction.entities}
    rows = [_pair(pair, scores, labels, kinds) for pair in pairs]
    return {"id": shortened(example.id), "length": len(example.text), "text": example.text, "pairs": rows}


def _pair(pair: Pair, scores: dict[EntitySpan, float], labels: dict[str, int], kinds: dict[str, int]) -> list[Any]:
    """The kind of the pair, gold span, found span and score; one that is not there, or equals gold, is 0."""
    gold, found = [[span[0], span[1], labels[span[2]]] if span else 0 for span in (pair.gold, pair.found)]
    score = round(scores[pair.found], SCORE_DIGITS) if pair.found else 0
    return [kinds[pair.kind], gold, 0 if found == gold else found, score]
