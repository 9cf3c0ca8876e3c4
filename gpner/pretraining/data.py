"""From texts to packs for masked language modelling: windows without overlap, pairs of segments, masks.

Masks and pairs are drawn from the seed, the epoch and the number of the window alone. So they are the same whether a
run was interrupted or not, and an evaluation asks the same of every model.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from gpner.packing import pack_in_order
from gpner.pretraining.masking import BEGINS, CONTINUES, SPECIAL, Masker, find_words
from gpner.pretraining.texts import TextDocument

# Texts that are tokenized at once: enough for all cores, few enough for the memory.
TEXTS_AT_ONCE = 64
_SENTENCE_END = re.compile(r"[.!?。！？；…\n]+[\s」』”’\"')\]）]*")


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A stretch of a text, without special tokens.

    `roles` say what each token is to its word; `sentences` are the tokens that begin one, but for the first of all.
    """

    document: str
    token_ids: NDArray[np.int64]
    roles: NDArray[np.uint8]
    sentences: NDArray[np.intp]

    def cut(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Tokens and roles of a part; what is left of a word at its beginning counts as a word."""
        roles = self.roles[start:stop].copy()
        if len(roles) and roles[0] == CONTINUES:
            roles[0] = BEGINS
        return self.token_ids[start:stop], roles


def cut_windows(
    documents: Sequence[TextDocument], tokenizer: PreTrainedTokenizerFast, capacity: int
) -> list[TextWindow]:
    """Tokenize texts and cut them into windows of at most `capacity` tokens, one after another, nothing left out."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    # A text that says "[MASK]" means these characters.
    backend.encode_special_tokens = True
    texts = [(document.id, text) for document in documents for text in document.sequences]
    windows: list[TextWindow] = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[first : first + TEXTS_AT_ONCE]
        encodings = backend.encode_batch([text for _, text in some], add_special_tokens=False)
        for (name, text), encoding in zip(some, encodings, strict=True):
            windows.extend(_windows(name, text, encoding, capacity))
    return windows


def _windows(name: str, text: str, encoding: Encoding, capacity: int) -> Iterator[TextWindow]:
    whole = TextWindow(name, np.array(encoding.ids, np.int64), find_words(encoding, text), _sentences(encoding, text))
    for start in range(0, len(whole.token_ids), capacity):
        stop = start + capacity
        inside = whole.sentences[(whole.sentences > start) & (whole.sentences < stop)] - start
        yield TextWindow(name, *whole.cut(start, stop), inside)


def _sentences(encoding: Encoding, text: str) -> NDArray[np.intp]:
    """First token after each sentence end or line break. Shape: (sentences,)."""
    starts = np.array([start for start, _ in encoding.offsets])
    first = np.searchsorted(starts, [match.end() for match in _SENTENCE_END.finditer(text)])
    return np.unique(first[(first > 0) & (first < len(starts))]).astype(np.intp)


def fill_packs(lengths: Sequence[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Divide sequences into packs in random order, so that a step learns from texts of many kinds and lengths.

    Args:
        lengths: Tokens of each.
        max_tokens: Most tokens in a pack.
        seed: Seed of the order.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    return pack_in_order(lengths, np.random.default_rng(seed).permutation(len(lengths)).tolist(), max_tokens)


@dataclass(frozen=True, slots=True)
class MaskedSequence:
    """What the encoder reads, what is hidden in it, and for pairs whether they were torn apart."""

    document: str
    token_ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    chosen: NDArray[np.intp]
    hidden: NDArray[np.int64]
    torn: int | None


class MaskedPacks(Dataset[dict[str, Any]]):
    """Packs of masked sequences, ready for `masked_logits`; set `epoch` for other masks.

    Args:
        windows: What to learn from.
        tokenizer: Gives special tokens and the vocabulary.
        objective: `nsp` or `sop` to make pairs of segments, or None.
        max_tokens: Most tokens in a pack.
        seed: Seed of packs, masks and pairs.

    Raises:
        ConfigError: If the tokenizer lacks a token that masked language modelling needs.
    """

    def __init__(
        self,
        windows: Sequence[TextWindow],
        tokenizer: PreTrainedTokenizerFast,
        *,
        objective: str | None,
        max_tokens: int,
        seed: int,
    ) -> None:
        self.epoch = 0
        self._windows = windows
        self._masker = Masker.of_tokenizer(tokenizer)
        self._first, self._last = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._objective = objective
        self._seed = seed
        special = 3 if objective else 2
        self._packs = fill_packs([len(window.token_ids) + special for window in windows], max_tokens, seed)

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return collate([self._masked(index) for index in self._packs[number]])

    def _masked(self, index: int) -> MaskedSequence:
        generator = np.random.default_rng((self._seed, self.epoch, index))
        window = self._windows[index]
        torn = None
        parts = [window.cut(0, len(window.token_ids))]
        if self._objective is not None:
            torn = int(generator.integers(2))
            parts = self._pair(window, torn == 1, generator)
        token_ids, roles, segments = [np.array([self._first])], [np.array([SPECIAL], np.uint8)], [np.zeros(1, int)]
        for segment, (content, content_roles) in enumerate(parts):
            token_ids += [content, np.array([self._last])]
            roles += [content_roles, np.array([SPECIAL], np.uint8)]
            segments.append(np.full(len(content) + 1, segment))
        true_ids = np.concatenate(token_ids)
        masked, chosen = self._masker(true_ids, np.concatenate(roles), generator)
        return MaskedSequence(window.document, masked, np.concatenate(segments), chosen, true_ids[chosen], torn)

    def _pair(
        self, window: TextWindow, torn: bool, generator: np.random.Generator
    ) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Two segments of a window; torn apart, they are swapped (SOP) or the second is of another document (NSP)."""
        cut = _random_cut(window, generator)
        first, second = window.cut(0, cut), window.cut(cut, len(window.token_ids))
        if not torn:
            return [first, second]
        if self._objective == "sop":
            return [second, first]
        other = self._other(window, generator)
        start = _random_cut(other, generator)
        return [first, other.cut(start, start + len(second[0]))]

    def _other(self, window: TextWindow, generator: np.random.Generator) -> TextWindow:
        while True:
            other = self._windows[int(generator.integers(len(self._windows)))]
            if other.document != window.document:
                return other


def _random_cut(window: TextWindow, generator: np.random.Generator) -> int:
    """The beginning of a sentence; the middle where there is none."""
    return int(generator.choice(window.sentences)) if len(window.sentences) else len(window.token_ids) // 2


def collate(sequences: Sequence[MaskedSequence]) -> dict[str, Any]:
    """Concatenate sequences into one pack, without padding.

    Returns:
        `input_ids` of all tokens, `lengths` of the sequences, `chosen` tokens counted over the pack and their `labels`,
        the names of the `documents`; for pairs also `token_type_ids` of all tokens and `torn` of each pair.
    """
    lengths = [len(sequence.token_ids) for sequence in sequences]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    chosen = [start + sequence.chosen for start, sequence in zip(starts, sequences, strict=True)]
    pairs = {}
    if sequences[0].torn is not None:
        pairs["token_type_ids"] = torch.from_numpy(np.concatenate([sequence.segments for sequence in sequences]))
        pairs["torn"] = torch.tensor([sequence.torn for sequence in sequences])
    return {
        "input_ids": torch.from_numpy(np.concatenate([sequence.token_ids for sequence in sequences])),
        "lengths": torch.tensor(lengths),
        "chosen": torch.from_numpy(np.concatenate(chosen)),
        "labels": torch.from_numpy(np.concatenate([sequence.hidden for sequence in sequences])),
        "documents": [sequence.document for sequence in sequences],
        **pairs,
    }
