"""Tiny encoders with random weights, one per family."""

import torch
from transformers import (
    AlbertConfig,
    BertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from gpner.config import GlobalPointerConfig
from gpner.model import GlobalPointerForEntities

SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
FAMILIES = ["bert", "roberta", "albert", "electra"]


def tiny_bert_config(positions: int = 512) -> BertConfig:
    return BertConfig(**SIZES, max_position_embeddings=positions)


def tiny_config(family: str, positions: int = 512) -> PreTrainedConfig:
    match family:
        case "bert":
            return tiny_bert_config(positions)
        case "roberta":
            return RobertaConfig(**SIZES, max_position_embeddings=positions + 2, pad_token_id=1, type_vocab_size=1)
        case "albert":
            return AlbertConfig(**SIZES, embedding_size=16, max_position_embeddings=positions)
        case "electra":
            return ElectraConfig(**SIZES, embedding_size=16, max_position_embeddings=positions)
    raise KeyError(family)


def tiny_model(family: str = "bert", **options: object) -> GlobalPointerForEntities:
    """A model of a family, over a vocabulary of 120."""
    return _random_model(tiny_config(family), options)


def tiny_text_model(tokenizer: PreTrainedTokenizerFast, **options: object) -> GlobalPointerForEntities:
    """A tiny BERT over a real tokenizer's vocabulary."""
    config = BertConfig(**{**SIZES, "vocab_size": len(tokenizer)}, max_position_embeddings=512)
    return _random_model(config, options)


def _random_model(encoder_config: PreTrainedConfig, options: dict[str, object]) -> GlobalPointerForEntities:
    """Weights large enough that documents, positions and labels all matter."""
    settings = {"labels": ["PER", "ORG"], "head_size": 8, "stride": 16, **options}
    torch.manual_seed(0)
    model = GlobalPointerForEntities(GlobalPointerConfig(encoder_config=encoder_config, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name == "head.label_projection.bias":
                parameter.zero_()  # else a new head's prior lets such a model find nothing
    return model.eval()
