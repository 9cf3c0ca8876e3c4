"""Tokenizers for encoders that start from scratch: one that exists, or WordPieces learnt from the texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from transformers import BertTokenizer, PreTrainedTokenizerFast

from gpner.checkpoint import load_tokenizer
from gpner.errors import CheckpointError, ConfigError
from gpner.pretraining.texts import TextDocument

# The five special tokens, and something to write with.
LEAST_SIZE = 16


def load_vocabulary(source: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from its folder or hub name, or make BERT's from a vocab.txt.

    A vocabulary without a capital letter is read as one of lower-cased text.

    Raises:
        CheckpointError: If there is none.
    """
    if not source.endswith(".txt"):
        return load_tokenizer(source)
    try:
        pieces = Path(source).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"a vocabulary must be a readable file of pieces in UTF-8, was not: {error}") from error
    vocabulary = {piece.removesuffix("\r"): index for index, piece in enumerate(pieces) if piece}
    missing = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"} - vocabulary.keys()
    if missing:
        raise CheckpointError(f"a vocabulary of WordPieces must hold BERT's special tokens, {source} lacks: {missing}")
    return BertTokenizer(vocab=vocabulary, do_lower_case="A" not in vocabulary)


def train_vocabulary(documents: Sequence[TextDocument], size: int) -> PreTrainedTokenizerFast:
    """Learn WordPieces from texts, split as BERT's: at blanks, punctuation and around Chinese characters, case kept.

    The tokenizers library does not promise the same pieces twice.

    Raises:
        ConfigError: If the size leaves no room for pieces.
    """
    if size < LEAST_SIZE:
        raise ConfigError(f"vocab_size must be at least {LEAST_SIZE}, was: {size}")
    texts = (list(document.sequences) for document in documents)
    untrained: PreTrainedTokenizerFast = BertTokenizer(do_lower_case=False)
    return cast(PreTrainedTokenizerFast, untrained.train_new_from_iterator(texts, size, show_progress=False))
