"""Which tokens a masked language model must guess: 15 %, whole words at a time; 80/10/10 mask, random, unchanged.

The procedure is BERT's (Devlin et al. 2019, section 3.1, and `create_masked_lm_predictions` of its code): words are
drawn in random order until 15 % of a sequence are chosen, and a word that is longer than what is left is passed over.
The collators of transformers do not fit: they pad, know no 80/10/10 for whole words, and take a Chinese sentence for
one word.

Chinese, Japanese and Thai are written without blanks, and where their words end would take a segmenter to say. In
their place spans of one to four neighbouring characters are chosen, with the shares of MacBERT's n-grams (Cui et al.
2020, section 3.2; its n-grams are of segmented words, ours of characters). The spans are drawn anew each time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from gpner.errors import ConfigError

MASKED_SHARE = 0.15
# Of the chosen tokens, what share becomes the mask token, and what share that or a random token.
MASK_SHARE, MASK_OR_RANDOM_SHARE = 0.8, 0.9
# How often a span of unspaced characters has 1, 2, 3 and 4 of them.
SPAN_SHARES = (0.4, 0.3, 0.2, 0.1)

# What a token is to its word.
CONTINUES, BEGINS, BEGINS_UNSPACED, SPECIAL = range(4)

# Thai, Lao, Burmese, Khmer, kana and Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def find_words(encoding: Encoding, text: str) -> NDArray[np.uint8]:
    """Say of each token of a text whether it begins a word.

    A word is what the tokenizer splits into pieces, but characters of unspaced scripts are words of their own, also for
    tokenizers that take a run of them for one word. Tokens that share a character stay together.

    Returns:
        `CONTINUES`, `BEGINS` or `BEGINS_UNSPACED` for each token. Shape: (tokens,).
    """
    roles = np.full(len(encoding), CONTINUES, dtype=np.uint8)
    unspaced_before, end_before = False, -1
    word_before: int | None = None
    for index, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        unspaced = _UNSPACED.search(text, start, end) is not None
        if word != word_before or (start >= end_before and (unspaced or unspaced_before)):
            roles[index] = BEGINS_UNSPACED if unspaced else BEGINS
        unspaced_before, word_before, end_before = unspaced, word, end
    return roles


def choose_tokens(roles: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.intp]:
    """Choose the tokens to guess: 15 % of those that are not special, at least one, whole words and spans at a time.

    Args:
        roles: What each token is to its word. Shape: (tokens,).
        generator: Where chance comes from.

    Returns:
        Indices of tokens, rising. Empty if every word has more tokens than may be chosen.
    """
    starts = _span_starts(roles, generator)
    sizes = np.diff(starts, append=len(roles))
    room = max(1, round(MASKED_SHARE * int((roles != SPECIAL).sum())))
    chosen: list[NDArray[np.intp]] = []
    for span in generator.permutation(np.flatnonzero(roles[starts] != SPECIAL)):
        if sizes[span] <= room:
            chosen.append(np.arange(starts[span], starts[span] + sizes[span]))
            room -= sizes[span]
        if not room:
            break
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.intp)


def _span_starts(roles: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.intp]:
    """First tokens of words and of spans of unspaced ones: random cuts through all words, and the end of every run."""
    words = np.flatnonzero(roles != CONTINUES)
    unspaced = roles[words] == BEGINS_UNSPACED
    starts = np.ones(len(words), dtype=bool)
    starts[1:] = ~(unspaced[1:] & unspaced[:-1])
    cuts = np.cumsum(generator.choice(len(SPAN_SHARES), size=len(words), p=SPAN_SHARES) + 1)
    starts[cuts[cuts < len(words)]] = True
    return words[starts]


@dataclass(frozen=True)
class Masker:
    """Hides tokens of sequences; `ordinary_ids` are the tokens that stand for chosen ones at random, special ones not.

    Attributes:
        mask_id: The token that says that one is hidden.
        ordinary_ids: Shape: (vocabulary without special tokens,).
    """

    mask_id: int
    ordinary_ids: NDArray[np.int64]

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerFast) -> Self:
        """Take the mask token and the vocabulary from a tokenizer.

        Raises:
            ConfigError: If it lacks a token that masked language modelling needs.
        """
        for name in ("mask_token", "cls_token", "sep_token"):
            if getattr(tokenizer, name) is None:
                raise ConfigError(
                    f"the tokenizer must have a {name} for masked language modelling, it has none; choose an encoder "
                    "that was pretrained by masking, such as BERT, RoBERTa or ALBERT"
                )
        ordinary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        return cls(tokenizer.mask_token_id, np.array(ordinary))

    def __call__(
        self, token_ids: Sequence[int] | NDArray[np.int64], roles: NDArray[np.uint8], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Hide 15 % of a sequence.

        Returns:
            The token ids with chosen ones replaced, and the indices of the chosen ones, rising.
        """
        hidden = np.array(token_ids, dtype=np.int64)
        chosen = choose_tokens(roles, generator)
        draw = generator.random(len(chosen))
        hidden[chosen[draw < MASK_SHARE]] = self.mask_id
        replaced = chosen[(draw >= MASK_SHARE) & (draw < MASK_OR_RANDOM_SHARE)]
        hidden[replaced] = generator.choice(self.ordinary_ids, size=len(replaced))
        return hidden, chosen
