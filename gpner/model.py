"""The model: any transformers encoder, run packed, with a span head on top."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.generic import ModelOutput

from gpner.attention import IMPLEMENTATION, Borders, Pack
from gpner.config import GlobalPointerConfig
from gpner.errors import CheckpointError, ConfigError, EncoderError, ShapeError
from gpner.heads import HEADS, SpanFactors
from gpner.loss import span_loss
from gpner.model_folder import MODEL_TYPE
from gpner.positions import position_offset

# As in BERT, whose linear layers start so.
HEAD_INIT_STD = 0.02
# The logit that a new head gives every span, as nearly none is an entity (Lin et al. 2017, arXiv 1708.02002, section
# 4.1). From 0 the first hundreds of steps would do nothing but push the logits of all spans down.
PRIOR_LOGIT = -8.0


@dataclass
class PackedOutput(ModelOutput):
    """What `GlobalPointerForEntities` returns.

    Attributes:
        factors: Span factors of every token of the pack.
        loss: Mean over documents, their segments and labels; only where spans were given.
    """

    factors: SpanFactors | None = None
    loss: Tensor | None = None


class GlobalPointerForEntities(PreTrainedModel):
    """A transformers encoder with a span head. Reads packs: documents one after another, without padding."""

    config_class = GlobalPointerConfig
    base_model_prefix = "encoder"

    def __init__(self, config: GlobalPointerConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(cast(PreTrainedConfig, config.encoder_config))
        self.head = HEADS[config.head](self.encoder.config.hidden_size, config)
        self.first_position = position_offset(self.encoder)
        n_positions = getattr(self.encoder.config, "max_position_embeddings", config.context) - self.first_position
        if config.context > n_positions:
            raise ConfigError(
                f"context must be at most the {n_positions} positions of the encoder, was: {config.context}; "
                "lengthen the encoder first with `gpner extend`"
            )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=HEAD_INIT_STD)
            of_labels = module is getattr(self.head, "label_projection", None)
            nn.init.constant_(module.bias, PRIOR_LOGIT if of_labels else 0.0)  # half at the start, half at the end

    @classmethod
    def from_encoder(cls, encoder: str | Path, *, labels: Sequence[str], **options: Any) -> Self:
        """Put a new head on a pretrained encoder.

        Args:
            encoder: Local folder or hub name of a transformers encoder, or of a gpner model, whose encoder is taken.
            labels: Entity labels, in the order of the head's outputs.
            **options: Further fields of `GlobalPointerConfig`.

        Raises:
            CheckpointError: If no encoder can be loaded from there.
            EncoderError: If it cannot run packed.
        """
        encoder_config = load_encoder_config(encoder)
        encoder_config.name_or_path = ""  # a folder of this machine means nothing to whoever gets the model
        padding = {"pad_token_id": encoder_config.pad_token_id}  # the Trainer looks for it here
        model = cls(GlobalPointerConfig(encoder_config=encoder_config, labels=list(labels), **{**padding, **options}))
        # strict would refuse the pooler, which the encoder inside this model goes without.
        model.encoder.load_state_dict(load_encoder(encoder).state_dict(), strict=False)

        def read_first(token_ids: Tensor) -> Tensor:
            factors = model(token_ids, [3, 3]).factors.narrow(0, 3)
            return torch.cat((factors.query.flatten(), factors.start_bias.flatten()))

        check_isolation(model, encoder_config.model_type, read_first)
        return model

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor | Sequence[int],
        contents: Tensor | None = None,
        spans: Tensor | None = None,
        segment_tokens: int | None = None,
    ) -> PackedOutput:
        """Score the spans of a pack of documents.

        Args:
            input_ids: Token ids of all documents, one after another. Shape: (tokens,).
            lengths: Tokens of each document. Shape: (documents,).
            contents: For the loss: first token of each document's content and the token after it, counted within the
                document; special tokens lie outside. Shape: (documents, 2).
            spans: For the loss: document, label, first and last token of each gold span, both counted within the
                content. Shape: (spans, 4).
            segment_tokens: For the loss: length of its segments, see `span_loss`.

        Returns:
            The factors, in fp32, and the loss if `contents` and `spans` came.

        Raises:
            ShapeError: If the lengths do not add up, or a document exceeds the context.
            EncoderError: If the encoder's attention was set to another function, which would mix the documents.
        """
        window = getattr(self.encoder.config, "attention_window", None)
        pack = Pack(tuple(torch.as_tensor(lengths).tolist()), input_ids.device, window)
        self._check(input_ids, pack)
        factors = self.score(input_ids, pack)
        loss = None
        if contents is not None and spans is not None:
            with torch.autocast(input_ids.device.type, enabled=False):
                loss = self._loss(factors, pack, contents, spans.to(input_ids.device), segment_tokens)
        return PackedOutput(factors=factors, loss=loss)

    def score(self, input_ids: Tensor, borders: Borders) -> SpanFactors:
        """Compute the factors alone, without looking at the input: nothing here waits for a GPU.

        Args:
            input_ids: Shape: (tokens,).
            borders: Where its documents lie; on a CPU a `Pack`.
        """
        positions = (borders.positions + self.first_position)[None]
        states = self.encoder(input_ids=input_ids[None], position_ids=positions, pack=borders).last_hidden_state[0]
        with torch.autocast(states.device.type, enabled=False):
            factors: SpanFactors = self.head(states.float(), borders.positions)
        return factors

    def flops(self, lengths: Sequence[int]) -> int:
        """Count the floating-point operations of the encoder over documents of these lengths, two per multiply-add.

        Counts the matrix products, as they are all but a few parts in a thousand of the work: the linear layers and,
        for each pair of tokens of one document, the attention's two products.
        """
        config = self.encoder.config
        hidden = config.hidden_size
        inner = getattr(config, "intermediate_size", 4 * hidden)
        linear = 2 * (4 * hidden**2 + 2 * hidden * inner)
        attention = 2 * 2 * hidden
        window = getattr(config, "attention_window", None)
        seen = [length if window is None else min(length, 2 * window + 1) for length in lengths]
        tokens = sum(n * (linear + attention * others) for n, others in zip(lengths, seen, strict=True))
        return int(config.num_hidden_layers * tokens)

    def _check(self, input_ids: Tensor, pack: Pack) -> None:
        attention = self.encoder.config._attn_implementation
        if attention != IMPLEMENTATION:
            raise EncoderError(
                f"the encoder's attention must be {IMPLEMENTATION}, was set to: {attention}; "
                "any other lets the documents of a pack see each other: leave it as it is"
            )
        if sum(pack.lengths) != input_ids.shape[0]:
            raise ShapeError(f"lengths must add up to the {input_ids.shape[0]} tokens given, was: {sum(pack.lengths)}")
        if not pack.lengths or min(pack.lengths) < 1 or max(pack.lengths) > self.config.context:
            raise ShapeError(
                f"a document must have 1 to {self.config.context} tokens (the context), were: {sorted(pack.lengths)}"
            )

    def _loss(
        self, factors: SpanFactors, pack: Pack, contents: Tensor, spans: Tensor, segment_tokens: int | None
    ) -> Tensor:
        band = self.config.max_entity_tokens
        losses = []
        for document, (start, (first, stop)) in enumerate(zip(pack.starts, contents.tolist(), strict=True)):
            of_document = spans[spans[:, 0] == document, 1:]
            content = factors.narrow(start + first, start + stop)
            losses.append(span_loss(content, of_document, max_entity_tokens=band, segment_tokens=segment_tokens))
        return torch.cat(losses).mean()


@torch.no_grad()
def check_isolation(model: PreTrainedModel, family: str, read_first: Callable[[Tensor], Tensor]) -> None:
    """Run two documents together and see whether the second is felt in the first: families may mix tokens anywhere.

    Args:
        model: What runs packs.
        family: The family of its encoder.
        read_first: Runs a pack of two documents of three tokens each, and returns what came out for the first.

    Raises:
        EncoderError: If it is, or if the encoder asks for attention that a pack does not give.
    """
    model.eval()
    alone, beside = (read_first(torch.tensor([3, 4, 5, *second])) for second in ([6, 7, 8], [9, 10, 11]))
    model.train()
    if not torch.equal(alone, beside):
        raise EncoderError(
            f"documents of a pack must not see each other, in {family} they do; choose an encoder such as BERT, "
            "RoBERTa, ALBERT or ELECTRA"
        )


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Make an encoder with random weights whose attention runs packed.

    Raises:
        EncoderError: If its family cannot run packed, or the configuration contradicts itself.
    """
    family: Any = MODEL_MAPPING.get(type(config), None)
    if family is None or not getattr(family, "_supports_attention_backend", False) or config.is_encoder_decoder:
        raise EncoderError(
            "the encoder must be a transformers model that takes its attention from AttentionInterface, such as BERT, "
            f"RoBERTa or ALBERT, was: {config.model_type}; choose another encoder"
        )
    # Families that are pretrained by filling in masked words are the ones that read both directions.
    bidirectional = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if not bidirectional or "position_ids" not in signature(family.forward).parameters:
        raise EncoderError(
            f"the encoder must read both directions and take position_ids, {config.model_type} does not as configured; "
            "choose another encoder"
        )
    window = getattr(config, "attention_window", None)
    if window is not None and not (type(window) is int and window >= 1):
        raise EncoderError(
            f"attention_window must be a number of tokens, at least 1, was: {window!r}; correct config.json"
        )
    # Attention dropout has no place in a pack: the kernels have none, and on the CPU it costs L² memory.
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    options = {"add_pooling_layer": False} if "add_pooling_layer" in signature(family.__init__).parameters else {}
    try:
        encoder: PreTrainedModel = AutoModel.from_config(config, attn_implementation=IMPLEMENTATION, **options)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"the encoder's configuration must be one that can be built, this {config.model_type} cannot: "
            f"{type(error).__name__}: {error}; correct its config.json"
        ) from error
    return encoder


def load_encoder_config(source: str | Path) -> PreTrainedConfig:
    """Read the configuration of an encoder from a local folder or a hub name; of a gpner model, that of its encoder.

    Raises:
        CheckpointError: If there is none.
    """
    config = _load_config(source)
    return cast(PreTrainedConfig, config.encoder_config) if config.model_type == MODEL_TYPE else config


def is_gpner_model(source: str | Path) -> bool:
    """Say whether a local folder or a hub name is of a whole gpner model, encoder and head.

    Raises:
        CheckpointError: If it is of no model.
    """
    return _load_config(source).model_type == MODEL_TYPE


def _load_config(source: str | Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, StrictDataclassError, ValueError) as error:
        raise CheckpointError(
            f"an encoder must be a local folder or a hub name with a config.json, was: {source} ({error})"
        ) from error
    return config


def load_encoder(source: str | Path) -> PreTrainedModel:
    """Load an encoder's weights in fp32, from safetensors only; of a gpner model, those of its encoder.

    Raises:
        CheckpointError: If there are none, or they are not those of its configuration.
    """
    model, missing = load_weights(GlobalPointerForEntities if is_gpner_model(source) else AutoModel, source)
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        raise CheckpointError(
            f"an encoder must bring all its weights, {source} lacks: {', '.join(missing[:5])}; is it of another family?"
        )
    return model.encoder if isinstance(model, GlobalPointerForEntities) else model


def load_weights(family: Any, source: str | Path, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a model of transformers in fp32, from safetensors only; returns it and the names of weights that it lacks.

    Raises:
        CheckpointError: If there are none, or they are not those of its configuration.
    """
    try:
        model, report = family.from_pretrained(
            source,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # we refuse them ourselves, by name
            **options,
        )
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"an encoder must hold its weights as safetensors, {source} does not: {error}") from error
    if report["mismatched_keys"]:
        raise CheckpointError(
            f"an encoder's weights must be of the shapes that its config.json says, in {source} "
            f"{describe_mismatches(report)}"
        )
    return cast(PreTrainedModel, model), sorted(report["missing_keys"])


def describe_mismatches(report: dict[str, Any]) -> str:
    """Say which weights are of another shape than the model's, of what transformers reports of a loading."""
    wrong = sorted((name, tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"])
    return ", ".join(f"{name} is {found}, not {wanted}" for name, found, wanted in wrong[:5])
