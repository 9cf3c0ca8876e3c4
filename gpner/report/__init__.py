"""An evaluation as one page of HTML: the figures, and every document with what was found, missed and mistaken.

The page needs no network and no other file, so it can be mailed, archived and opened years later. Texts, ids and
labels are foreign: they travel as JSON and the page's script sets them as text only. A policy in the page's head
forbids every script but that one and every request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from gpner.entities import Extraction
from gpner.errors import ConfigError
from gpner.evaluation import Evaluation
from gpner.evaluation.pairing import KINDS, EntitySpan, Pair
from gpner.examples import Example
from gpner.run_folder import write_text

# Digits of a score in the page: enough for its 20 bars, and a third of the bytes.
SCORE_DIGITS = 4
SCRIPTS = ("figures.js", "charts.js", "documents.js", "marks.js")


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
    content = {
        "model": model_name,
        "labels": list(labels),
        "scores": evaluation.to_dict(),
        "documents": [_document(*document, labels) for document in documents],
    }
    try:
        write_text(path, _page(model_name, content))
    except OSError as error:
        raise ConfigError(f"the report must be a file that can be written, {path} cannot: {error.strerror}") from error


def _document(
    example: Example, extraction: Extraction, pairs: Sequence[Pair], labels: dict[str, int]
) -> dict[str, Any]:
    scores = {(entity.start, entity.end, entity.label): entity.score for entity in extraction.entities}
    rows = [_pair(pair, scores, labels) for pair in pairs]
    return {"id": example.id, "length": len(example.text), "text": example.text, "pairs": rows}


def _pair(pair: Pair, scores: dict[EntitySpan, float], labels: dict[str, int]) -> list[Any]:
    """The kind of the pair, gold span, found span and score; one that is not there, or equals gold, is 0."""
    gold, found = [[span[0], span[1], labels[span[2]]] if span else 0 for span in (pair.gold, pair.found)]
    score = round(scores[pair.found], SCORE_DIGITS) if pair.found else 0
    return [KINDS.index(pair.kind), gold, 0 if found == gold else found, score]


def _page(title: str, content: dict[str, Any]) -> str:
    script = "".join(_read(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        # With no `<` in it, the data can neither close its element nor open a comment.
        "data": json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _read("page.html"))


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
