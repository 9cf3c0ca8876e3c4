"""What belongs to a model and is saved beside its weights, as one transformers configuration.

Unknown keys are errors: a misspelt option that is silently ignored costs a training run.
"""

import difflib
import math
from dataclasses import fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from gpner.errors import ConfigError
from gpner.model_folder import MODEL_TYPE

# Keys that transformers itself writes into a config.json, beside the declared fields.
TRANSFORMERS_KEYS = {
    "model_type",
    "name_or_path",
    "attn_implementation",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "use_cache",
}


@strict
class GlobalPointerConfig(PreTrainedConfig):
    """Configuration of `GlobalPointerForEntities`.

    Attributes:
        encoder_config: The encoder's own configuration.
        labels: Entity labels, in the order of the head's outputs.
        head: Which span head scores the spans.
        bias_from: What the efficient head's biases read: its projection (published form) or the encoder's state.
        head_size: Size of the start and end vectors; even, for rotary positions.
        context: Longest window that the encoder reads, in tokens, special tokens included.
        stride: How many tokens two windows of one document share.
        max_entity_tokens: Longest entity, in tokens; None for no limit.
        thresholds: Logit above which a span is an entity, per label; empty for 0 everywhere.
        score_temperature: Divides the logits that scores are made of; above 1 for a model that is too sure of itself.
            Not simply `temperature`: transformers takes that for a setting of text generation.
        tuned_on: Of the examples that thresholds and temperature were tuned on, the `file` and its `sha256` as
            `gpner.evaluation.calibration.fingerprint` makes it; None for a model that was not tuned.
    """

    model_type = MODEL_TYPE
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012  # transformers reads it as a class attribute
    has_no_defaults_at_init = True

    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    labels: list[str] | tuple[str, ...] = ()
    head: Literal["efficient_global_pointer", "global_pointer"] = "efficient_global_pointer"
    bias_from: Literal["projection", "hidden"] = "projection"
    head_size: int = 64
    context: int = 512
    stride: int = 64
    max_entity_tokens: int | None = None
    # Whole numbers too: who edits config.json by hand writes 1, not 1.0.
    thresholds: list[float | int] | tuple[float | int, ...] = ()
    score_temperature: float | int = 1.0
    tuned_on: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_unknown_keys(type(self), kwargs)
        if isinstance(self.encoder_config, dict):
            self.encoder_config = AutoConfig.for_model(**self.encoder_config)
        self._check()
        self.id2label = dict(enumerate(self.labels))
        self.label2id = {label: index for index, label in enumerate(self.labels)}
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.encoder_config is None:
            raise ConfigError(
                "encoder_config must hold the encoder's configuration, was: None; give config.json of the encoder"
            )
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels must name at least one label, each once, was: {list(self.labels)}")
        if self.head_size < 2 or self.head_size % 2:
            raise ConfigError(f"head_size must be even for rotary positions, was: {self.head_size}")
        if self.context < 8 or not 0 <= self.stride < self.context - 2:
            raise ConfigError(
                "context must be at least 8 tokens and stride between 0 and context - 3, "
                f"were: {self.context} and {self.stride}"
            )
        if any(math.isnan(threshold) for threshold in self.thresholds):
            raise ConfigError(f"thresholds must be numbers, were: {list(self.thresholds)}; 0 is the usual one")
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise ConfigError(
                f"thresholds must hold one logit per label ({len(self.labels)}), had: {len(self.thresholds)}"
            )
        if not 0 < self.score_temperature < math.inf:
            raise ConfigError(f"score_temperature must be above 0, was: {self.score_temperature}; 1 is the usual one")
        if self.max_entity_tokens is not None and self.max_entity_tokens < 1:
            raise ConfigError(
                f"max_entity_tokens must be at least 1, or null for no limit, was: {self.max_entity_tokens}"
            )


def _refuse_unknown_keys(config_class: type[PreTrainedConfig], keys: dict[str, Any]) -> None:
    known = {field.name for field in fields(config_class)}
    for key in keys:
        if key in TRANSFORMERS_KEYS or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known keys are {', '.join(sorted(known))}"
        raise ConfigError(f"unknown key '{key}' in config.json{hint}")


AutoConfig.register(MODEL_TYPE, GlobalPointerConfig)
