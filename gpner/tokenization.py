"""Text to token ids with exact character offsets; windows over texts longer than the context, and their merge.

Everything about characters lives here, so that training and inference cannot disagree on what a token covers: the
features of a training example and the entities of an extraction both come from `TextTokenizer`.
"""

from __future__ import annotations

import copy
import math
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpner.entities import Entity
from gpner.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from gpner.decoding import Span

# Every character that str.isspace calls blank lies below this bound; looking one up in a set is the fastest test.
_BLANKS = frozenset(filter(str.isspace, map(chr, range(0x3001))))


@dataclass(frozen=True, slots=True)
class Window:
    """What the encoder reads in one go: a stretch of a document between the special tokens.

    `token_ids` are at most `context`, special tokens included; `prefix` counts the special tokens before the content,
    `n_content` the content tokens; `first_token` is the index in the document of the first of these.
    """

    token_ids: list[int]
    prefix: int
    first_token: int
    n_content: int

    @property
    def last_token(self) -> int:
        """The index in the document of the window's last content token."""
        return self.first_token + self.n_content - 1


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A document as tokens.

    `offsets` holds the characters (start, end exclusive) of each content token of the whole document, without blanks at
    either edge; a token that covers blanks only has an empty range. A text without tokens has no windows.
    """

    text: str
    offsets: list[tuple[int, int]]
    windows: tuple[Window, ...]

    @property
    def n_tokens(self) -> int:
        """The document's own tokens, each once."""
        return len(self.offsets)

    @property
    def n_window_tokens(self) -> int:
        """Tokens that the encoder reads: overlaps count twice, special tokens too."""
        return sum(len(window.token_ids) for window in self.windows)


class TextTokenizer:
    """Cuts texts of any length into windows; never truncates, and may be called from several threads at once.

    A document longer than the context is cut into windows of `context` tokens that overlap by `stride` content tokens.
    The last one ends with the document and is full too, so it overlaps its neighbour by more: a short rest would be
    read with less context than any other part of the document.

    Args:
        tokenizer: A tokenizer of the tokenizers library. It is copied: neither the truncation and padding that many
            checkpoints save with it nor a later change to it can reach us.
        context: Most tokens in a window, special tokens included.
        stride: Content tokens that neighbouring windows share.

    Raises:
        ConfigError: If the context has no room for content, the stride leaves no step, or the tokenizer loses letters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, context: int, stride: int) -> None:
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        # A document that says "[SEP]" or "</s>" means these characters, not the end of the sequence.
        self._backend.encode_special_tokens = True
        self._prefix, self._suffix = self._special_tokens()
        self._capacity = context - len(self._prefix) - len(self._suffix)
        if self._capacity < 1:
            least = context - self._capacity + 1
            raise ConfigError(f"context must be at least {least} tokens, special tokens included, was: {context}")
        if not 0 <= stride < self._capacity:
            raise ConfigError(f"stride must lie between 0 and {self._capacity - 1} tokens, was: {stride}")
        self._stride = stride

    def __call__(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Tokenize whole texts.

        Raises:
            DocumentError: If a text is no string, or holds a lone surrogate, which no encoding can carry.
        """
        if isinstance(texts, str):
            raise DocumentError("texts must be a sequence of strings, was one string; put it into a list")
        for number, text in enumerate(texts):
            _check_text(text, number)
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            TokenizedText(text, _exact_offsets(text, encoding.offsets), self._windows(encoding.ids))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _windows(self, ids: list[int]) -> tuple[Window, ...]:
        if not ids:
            return ()
        last = max(0, len(ids) - self._capacity)
        step = self._capacity - self._stride
        return tuple(self._window(ids, start) for start in (*range(0, last, step), last))

    def _window(self, ids: list[int], start: int) -> Window:
        content = ids[start : start + self._capacity]
        token_ids = [*self._prefix, *content, *self._suffix]
        return Window(token_ids, prefix=len(self._prefix), first_token=start, n_content=len(content))

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and after the content of every sequence."""
        probe = self._backend.encode("a")
        content = [index for index, special in enumerate(probe.special_tokens_mask) if not special]
        if not content:
            raise ConfigError(
                "a tokenizer must have a token for every letter, for 'a' it has none; add an unknown token"
            )
        return probe.ids[: content[0]], probe.ids[content[-1] + 1 :]


def _check_text(text: object, number: int) -> None:
    if not isinstance(text, str):
        raise DocumentError(f"document {number} must be a string, was: {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = f"U+{ord(text[error.start]):04X}"
        raise DocumentError(
            f"document {number} must be valid Unicode, its character {error.start} is the lone surrogate {character};"
            " decode the source with errors='replace'"
        ) from None


def _exact_offsets(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Correct character ranges, in place, where the tokenizer's own do not cut what a reader calls the token.

    Two things are wrong in them. Byte-level and SentencePiece tokenizers count the blank before a word, or between
    words, to a token: it is cut off. Tokenizers that strip accents leave a combining mark out of every range: it
    belongs to the character before it, so the token there takes it in.
    """
    padded = text + " "
    for index, (start, end) in enumerate(offsets):
        if padded[start] in _BLANKS or padded[end - 1] in _BLANKS:
            offsets[index] = _trim(text, start, end)
    if not text.isascii():
        _take_marks(text, offsets)
    return offsets


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _take_marks(text: str, offsets: list[tuple[int, int]]) -> None:
    """Extend ranges, in place, over the combining marks that follow them and that no token covers."""
    stop = len(text)
    for index in range(len(offsets) - 1, -1, -1):
        start, end = offsets[index]
        if start < end < stop and unicodedata.category(text[end])[0] == "M":
            while end < stop and unicodedata.category(text[end])[0] == "M":
                end += 1
            offsets[index] = (start, end)
        if start < end:
            stop = start


def merge_windows(windows: Sequence[Window], spans: Sequence[Sequence[Span]]) -> list[Span]:
    """Join what was found in the windows of one document.

    A span that several windows hold is taken from one of them only, whether that one found it or not: the one in which
    it lies furthest from the nearer edge, as there it was read with the most context. The start and the end of the
    document are no edges. Ties go to the earlier window.

    Args:
        windows: The windows of a document, in order.
        spans: What was found in each, in tokens counted from the window's first content token.

    Returns:
        Spans in tokens of the document, by first token, then longest first, then label.
    """
    if len(windows) == 1:
        return list(spans[0])
    merged = []
    for index, (window, found) in enumerate(zip(windows, spans, strict=True)):
        for span in found:
            first, last = span.first_token + window.first_token, span.last_token + window.first_token
            if _home(windows, first, last) == index:
                merged.append(span._replace(first_token=first, last_token=last))
    return sorted(merged, key=lambda span: (span.first_token, -span.last_token, span.label))


def windows_holding(windows: Sequence[Window], first_token: int, last_token: int) -> range:
    """The indices of the windows that hold all of the document's tokens first_token..last_token."""
    start = bisect_left(windows, last_token, key=lambda window: window.last_token)
    stop = bisect_right(windows, first_token, key=lambda window: window.first_token)
    return range(start, stop)


def _home(windows: Sequence[Window], first_token: int, last_token: int) -> int:
    """The index of the window in which these tokens lie furthest from the edge.

    The document's own ends need no exception: a span nearest to the start of the first window is nearer still to the
    start of every other window that holds it, and likewise at the end.
    """

    def distance(index: int) -> int:
        window = windows[index]
        return min(first_token - window.first_token, window.last_token - last_token)

    return max(windows_holding(windows, first_token, last_token), key=distance)


def to_entities(
    tokenized: TokenizedText, spans: Sequence[Span], labels: Sequence[str], *, score_temperature: float = 1.0
) -> tuple[Entity, ...]:
    """Turn spans of document tokens into entities; a score is the sigmoid of logit / temperature.

    Returns:
        Entities by start, then longest first, then label.
    """
    logits = entity_logits(tokenized, spans, labels)
    ordered = sorted(logits.items(), key=lambda item: (item[0][0], -item[0][1], item[0][2]))
    return tuple(
        Entity(start, end, label, tokenized.text[start:end], _sigmoid(logit / score_temperature))
        for (start, end, label), logit in ordered
    )


def entity_logits(
    tokenized: TokenizedText, spans: Sequence[Span], labels: Sequence[str]
) -> dict[tuple[int, int, str], float]:
    """Turn spans of document tokens into start, end (characters) and label, each with its logit.

    Blank tokens at the edges of a span are left out, and a span of blanks only is dropped. Spans that cut the same
    characters for the same label (byte-level tokens split a character) become one entity with the best logit.
    """
    best: dict[tuple[int, int, str], float] = {}
    for span in spans:
        characters = _characters(tokenized.offsets, span.first_token, span.last_token)
        if characters is not None:
            key = (*characters, labels[span.label])
            best[key] = max(span.logit, best.get(key, -math.inf))
    return best


def _characters(offsets: list[tuple[int, int]], first: int, last: int) -> tuple[int, int] | None:
    while first <= last and offsets[first][0] == offsets[first][1]:
        first += 1
    while first <= last and offsets[last][0] == offsets[last][1]:
        last -= 1
    if first > last or offsets[first][0] >= offsets[last][1]:
        return None
    return offsets[first][0], offsets[last][1]


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def align(
    tokenized: TokenizedText, entities: Sequence[tuple[int, int, str]]
) -> tuple[list[tuple[str, int, int]], list[tuple[int, int, str]]]:
    """Find the tokens of entities given in characters: the inverse of `to_entities`.

    Args:
        tokenized: The document.
        entities: Start, end (exclusive) and label.

    Returns:
        Label, first and last token of every entity that tokens can express; and the entities that they cannot, because
        a token straddles an edge, the edge is blank, or the tokenizer drops what stands there. Where several tokens
        cut the same character the span covers all of them.
    """
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for index, (start, end) in enumerate(tokenized.offsets):
        if start < end:
            starts.setdefault(start, index)
            ends[end] = index
    aligned, inexpressible = [], []
    for start, end, label in entities:
        first, last = starts.get(start), ends.get(end)
        if first is None or last is None or first > last:
            inexpressible.append((start, end, label))
        else:
            aligned.append((label, first, last))
    return aligned, inexpressible
