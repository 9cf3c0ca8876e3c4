"""The features that training reads, made of examples."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpner.errors import DataError
from gpner.examples import Example
from gpner.tokenization import TextTokenizer, TokenizedText, align, windows_holding


@dataclass(frozen=True, slots=True)
class Feature:
    """One window of an example, as training reads it.

    `token_ids` include `prefix` special tokens before the `n_content` content tokens and some after; `spans` are label
    index, first and last token (inclusive), counted from the first content token.
    """

    example_id: str
    token_ids: list[int]
    prefix: int
    n_content: int
    spans: list[tuple[int, int, int]]


def build_features(
    examples: Sequence[Example],
    tokenizer: TextTokenizer,
    labels: Sequence[str],
    *,
    max_entity_tokens: int | None = None,
) -> tuple[list[Feature], list[tuple[str, int, int, str]]]:
    """Turn examples into windows with spans of tokens.

    An entity goes into every window that holds it whole.

    Returns:
        A feature for every window, in the order of examples; and the entities that no feature has, as (example id,
        start, end, label): tokens cannot express them, they have more than `max_entity_tokens` tokens, or they are
        longer than the windows' overlap and no window holds them.

    Raises:
        DataError: If an entity's label is not among `labels`.
    """
    label_indices = {label: index for index, label in enumerate(labels)}
    features: list[Feature] = []
    lost: list[tuple[str, int, int, str]] = []
    for example, tokenized in zip(examples, tokenizer([example.text for example in examples]), strict=True):
        for _, _, label in example.entities:
            if label not in label_indices:
                known = ", ".join(labels)
                raise DataError(f"labels must be among {known}, in example {example.id!r} was: {label!r}")
        of_example, unfit = _features(example, tokenized, label_indices, max_entity_tokens or tokenized.n_tokens)
        features.extend(of_example)
        lost.extend((example.id, *entity) for entity in unfit)
    return features, lost


def _features(
    example: Example, tokenized: TokenizedText, label_indices: dict[str, int], longest: int
) -> tuple[list[Feature], list[tuple[int, int, str]]]:
    windows = tokenized.windows
    features = [Feature(example.id, window.token_ids, window.prefix, window.n_content, []) for window in windows]
    aligned, lost = align(tokenized, example.entities)
    for label, first, last in aligned:
        holding = windows_holding(windows, first, last) if last - first < longest else range(0)
        for index in holding:
            offset = windows[index].first_token
            features[index].spans.append((label_indices[label], first - offset, last - offset))
        if not holding:
            lost.append((tokenized.offsets[first][0], tokenized.offsets[last][1], label))
    return features, lost
