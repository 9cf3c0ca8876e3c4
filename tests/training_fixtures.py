"""A corpus small enough to be learnt by heart, an encoder to learn it with, and the options of such a run."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel

NAMES = ["Ada", "Grace", "Alan", "Edsger"]
PLACES = ["London", "Lisbon", "Zurich"]


def write_corpus(file, n_documents):
    """Sentences with a person, a place, and a person that holds a place inside."""
    lines = []
    for number in range(n_documents):
        name, place = NAMES[number % len(NAMES)], PLACES[number % len(PLACES)]
        text = f"Yesterday {name} left home. The mayor of {place} waited."
        outer = text.index("The mayor")
        entities = [
            [text.index(name), text.index(name) + len(name), "PER"],
            [outer, text.index(" waited"), "PER"],
            [text.index(place), text.index(place) + len(place), "GPE"],
        ]
        lines.append(json.dumps({"id": str(number), "text": text, "entities": entities}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def save_encoder(folder, tokenizer, **settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, wordpiece_tokenizer):
    return save_encoder(tmp_path_factory.mktemp("encoder"), wordpiece_tokenizer)


@pytest.fixture
def options(tmp_path, encoder):
    corpus = write_corpus(tmp_path / "corpus.jsonl", 24)
    return {
        "encoder": str(encoder),
        "train": corpus,
        "dev": corpus,
        "output": tmp_path / "model",
        "context": 32,
        "stride": 4,
        "epochs": 12,
        "batch_size": 4,
        "encoder_learning_rate": 2e-3,
        "head_learning_rate": 1e-2,
        "head_size": 16,
        "weight_decay": 0.0,
    }


def as_flags(options):
    """The options as the command line takes them."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
