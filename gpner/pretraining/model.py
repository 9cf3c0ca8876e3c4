"""Masked language models of transformers, run packed, that compute logits of the hidden tokens only.

The models and their heads are transformers' own. A hook on the encoder hands on the states that the heads need, a
seventh of them, so that memory does not grow with tokens x vocabulary whatever the family's head looks like.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_PRETRAINING_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gpner.attention import IMPLEMENTATION, Pack
from gpner.errors import CheckpointError, ConfigError, EncoderError
from gpner.model import build_encoder, check_isolation, is_gpner_model, load_encoder, load_encoder_config, load_weights
from gpner.positions import position_offset

# The family whose pre-training class in transformers has a head for the objective.
OBJECTIVE_FAMILIES = {"nsp": "bert", "sop": "albert"}


def load_masked_model(source: str | Path, objective: str | None = None) -> tuple[PreTrainedModel, list[str]]:
    """Load an encoder with its head for masked language modelling; one that it lacks starts anew.

    Args:
        source: Local folder or hub name.
        objective: `nsp` or `sop` for a model that classifies pairs too.

    Returns:
        The model, and the names of the weights that start anew; the output layer shares the embeddings then.

    Raises:
        CheckpointError: If there is no encoder, or not all of it, or it is in a whole gpner model.
        EncoderError: If its family cannot run packed, or has no head for the objective.
    """
    if is_gpner_model(source):
        raise CheckpointError(
            f"pre-training must start from an encoder, {source} is a whole gpner model; give what it was trained from"
        )
    config = load_encoder_config(source)
    family = _family(config, objective)
    model, missing = load_weights(family, source, config=config, attn_implementation=IMPLEMENTATION)
    of_encoder = [name for name in missing if name.startswith(model.base_model_prefix) and ".pooler." not in name]
    if of_encoder:
        names = ", ".join(of_encoder[:5])
        raise CheckpointError(
            f"an encoder must bring all its weights, {source} lacks: {names}; is it of another family?"
        )
    return _ready(model), missing


def new_masked_model(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, objective: str | None
) -> PreTrainedModel:
    """Make a model with random weights for a tokenizer's vocabulary.

    Raises:
        EncoderError: If its family cannot run packed, or has no head for the objective.
    """
    config.vocab_size = n_token_ids(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    family = _family(config, objective)
    return _ready(family.from_config(config, attn_implementation=IMPLEMENTATION))


def n_token_ids(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows that an embedding must have; more than tokens where a vocabulary leaves ids out or names a token twice."""
    return int(max(tokenizer.get_vocab().values())) + 1


def load_with_head(source: str | Path) -> PreTrainedModel:
    """Load an encoder with the pre-training head that it was saved with, and without one if it has none.

    Raises:
        CheckpointError: If no encoder can be loaded from there.
    """
    config = load_encoder_config(source)
    kinds: dict[Any, Any] = {
        AutoModelForPreTraining: MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None),
        AutoModelForMaskedLM: MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None),
    }
    for family, kind in kinds.items():
        if kind is not None and config.architectures == [kind.__name__]:
            model, missing = load_weights(family, source)
            if not missing:
                return model
    return load_encoder(source)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder inside a model, whatever head it has; an encoder itself if it has none."""
    return cast(PreTrainedModel, model.base_model)


def check_context(model: PreTrainedModel, context: int) -> None:
    """Compare the context with the positions of an encoder.

    Raises:
        ConfigError: If it exceeds them.
    """
    n_positions = getattr(model.config, "max_position_embeddings", context) - position_offset(encoder_of(model))
    if context > n_positions:
        raise ConfigError(
            f"context must be at most the {n_positions} positions of the encoder, was: {context}; lengthen the encoder "
            "first with `gpner extend`, or raise max_position_embeddings of a new one"
        )


def masked_logits(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Run a pack of `MaskedPacks`.

    Args:
        model: What `load_masked_model` gave, or the Trainer's wrapper of it.
        batch: What `collate` gave, on the model's device.

    Returns:
        In fp32 the logits of the chosen tokens, shape (chosen, vocabulary), and those of the pairs if there are any:
        whole, or torn apart; shape (sequences, 2).
    """
    pretrained = cast(PreTrainedModel, getattr(model, "module", model))
    input_ids = batch["input_ids"]
    window = getattr(pretrained.config, "attention_window", None)
    pack = Pack(tuple(batch["lengths"].tolist()), input_ids.device, window)
    pairs = {"token_type_ids": batch["token_type_ids"][None]} if "torn" in batch else {}
    outputs = model(
        input_ids=input_ids[None],
        position_ids=(pack.positions + position_offset(encoder_of(pretrained)))[None],
        pack=pack,
        chosen=batch["chosen"],
        **pairs,
    )
    return outputs[0][0].float(), outputs[1].float() if pairs else None


def _family(config: PreTrainedConfig, objective: str | None) -> Any:
    """The class to load with; sets the configuration's attention dropout to 0, as packs have none."""
    with torch.device("meta"):  # for its checks, without the memory
        build_encoder(config)
    if objective is None:
        return AutoModelForMaskedLM
    wanted = OBJECTIVE_FAMILIES[objective]
    if config.model_type != wanted:
        raise EncoderError(
            f"sentence_objective {objective} needs a {wanted} encoder, was: {config.model_type}; choose another "
            "encoder, or leave the objective out"
        )
    return AutoModelForPreTraining


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    encoder_of(model).register_forward_hook(_keep_needed, with_kwargs=True)
    common = {"lengths": torch.tensor([3, 3]), "chosen": torch.arange(3)}
    family = model.config.model_type
    check_isolation(model, family, lambda token_ids: masked_logits(model, {**common, "input_ids": token_ids})[0])
    return model


def _keep_needed(encoder: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> Any:
    """Reduce the encoder's output to the states of the chosen tokens, and pool the first of every sequence."""
    states = output.last_hidden_state
    output.last_hidden_state = states[:, keywords["chosen"]]
    if getattr(encoder, "pooler", None) is not None:
        first = states[0, list(keywords["pack"].starts)]
        # ALBERT's pooler is a bare layer; BERT's takes whole sequences, and their first token.
        albert = hasattr(encoder, "pooler_activation")
        output.pooler_output = (
            encoder.pooler_activation(encoder.pooler(first)) if albert else encoder.pooler(first[:, None])
        )
    return output
