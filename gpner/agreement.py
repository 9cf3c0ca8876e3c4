"""Whether a model in another precision still finds what it finds in its own, on texts of whoever is to use it."""

from collections.abc import Sequence

from gpner.entities import Extraction
from gpner.errors import ConfigError
from gpner.evaluation import Scores
from gpner.extractor import Extractor

# Of bf16 and int8, measured in docs/log.md: models that lost at most 0.2 points of F1 agreed to .977 and more, those
# that lost a whole one to .922 and .938.
LEAST_AGREEMENT = 0.96
# Fewer entities would leave it to chance on which side of that a model comes to lie.
LEAST_ENTITIES = 200


def require_agreement(extractor: Extractor, reference: Extractor, texts: Sequence[str]) -> Scores:
    """See that two extractors find the same entities: start, end and label.

    It bounds what is lost but is no measure of it: where the two differ, either may be right. `gpner evaluate` measures
    F1 in both precisions, on texts with gold entities.

    Args:
        extractor: The one to judge.
        reference: The one that it is held against.
        texts: Texts of the kind that will be read.

    Returns:
        The counts, those of the reference as gold.

    Raises:
        ConfigError: If they agree too little, or on too few entities to tell.
        DocumentError: If a text is not valid Unicode.
    """
    pairs = zip(reference.extract_iter(texts), extractor.extract_iter(texts), strict=True)
    found = [(_spans(expected), _spans(other)) for expected, other in pairs]
    scores = Scores(
        gold=sum(len(expected) for expected, _ in found),
        found=sum(len(other) for _, other in found),
        correct=sum(len(expected & other) for expected, other in found),
    )
    if scores.gold < LEAST_ENTITIES:
        raise ConfigError(
            f"the texts that precisions are compared on must hold at least {LEAST_ENTITIES} entities, the model found: "
            f"{scores.gold}; give more text of the kind that it will read"
        )
    if scores.f1 < LEAST_AGREEMENT:
        raise ConfigError(
            f"int8 must agree with the model's usual precision to {LEAST_AGREEMENT:.1%} of F1, was: {scores.f1:.1%} "
            f"({scores.gold} entities, {scores.found} in int8, {scores.correct} in both); use precision auto"
        )
    return scores


def _spans(extraction: Extraction) -> set[tuple[int, int, str]]:
    return {(entity.start, entity.end, entity.label) for entity in extraction.entities}
