"""What comes out of an extraction. No torch here: producers and consumers import this too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a document.

    `start` and `end` count characters (Unicode code points), end exclusive, so that `document[start:end] == text`.
    `score` is the sigmoid of the span's logit, divided by the model's temperature; between 0 and 1.
    """

    start: int
    end: int
    label: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """The entities of one document, ordered by start, then longest first, then label.

    `tokens` counts the document's own tokens, each once; `windows` how many contexts it was read in.
    """

    entities: tuple[Entity, ...]
    tokens: int
    windows: int
