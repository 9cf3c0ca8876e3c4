"""What a dev file can tell a trained model: from which logit on to believe it, and how sure its scores may sound.

Thresholds decide what is found; the temperature only changes the scores of what is found. Both are fitted to the
candidates of the one inference path, windows and merge included, and saved in the checkpoint's `config.json` together
with a fingerprint of the examples, so that an evaluation on these very examples is never taken for an honest test.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpner.errors import ConfigError, DataError
from gpner.evaluation import Evaluation, evaluate
from gpner.evaluation.pairing import EntitySpan
from gpner.evaluation.reliability import Reliability, measure_reliability
from gpner.examples import Example
from gpner.extractor import Extractor
from gpner.model_folder import read_config
from gpner.run_folder import write_text

# Logit of the least likely candidates, a score of 0.018; lower ones are many and hardly ever right.
FLOOR = -4.0
# Temperatures past these would turn all scores to about 1, or to about 0.5.
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.1, 10.0
# Halvings of the range of temperatures: exact to the last digit that a float has.
HALVINGS = 60

# Of each document: the candidates with their logits, and the gold entities.
Candidates = Sequence[dict[EntitySpan, float]]
Gold = Sequence[set[EntitySpan]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was fitted, and what it changes on the examples that it was fitted to.

    Attributes:
        thresholds: Logits, by label.
        temperature: Divides the logits that scores are made of.
        before: Scores with the thresholds that the model came with.
        after: Scores with the new ones; `gpner evaluate` gives the same on the same examples.
        reliability_before: Of the scores of what is found with the new thresholds, at the model's own temperature.
        reliability_after: The same at the new temperature; `gpner evaluate` gives the same too.
        tuned_on: What the checkpoint keeps of the examples.
    """

    thresholds: dict[str, float]
    temperature: float
    before: Evaluation
    after: Evaluation
    reliability_before: Reliability
    reliability_after: Reliability
    tuned_on: dict[str, str]


def tune(extractor: Extractor, examples: Sequence[Example], *, file: str) -> Tuning:
    """Fit thresholds and temperature to examples that the model was not trained on.

    Args:
        extractor: The model.
        examples: Never those that the model is to be tested on.
        file: Name of their file, for the record.

    Raises:
        DataError: If there is no gold entity, or nothing that is found is right.
        DocumentError: If the model fires everywhere.
    """
    gold = [set(example.entities) for example in examples]
    if not any(gold):
        raise DataError(f"{file}: tuning needs gold entities, has none; give the dev file that the model was chosen on")
    config = extractor.model.config
    current = dict(zip(extractor.labels, config.thresholds or [0.0] * len(extractor.labels), strict=True))
    floor = min(FLOOR, *current.values())
    candidates = list(extractor.candidates((example.text for example in examples), floor))
    thresholds = _fit_thresholds(candidates, gold, extractor.labels, floor)
    after = _above(candidates, thresholds)
    logits, correct = _outcomes(candidates, gold, after)
    if not correct.any():
        raise DataError(
            f"{file}: tuning needs a model that finds something right, this one finds {len(correct)} entities and all "
            f"are wrong; train it further, or see whether these are its labels: {', '.join(extractor.labels)}"
        )
    temperature = fit_temperature(logits, correct)
    return Tuning(
        thresholds=thresholds,
        temperature=temperature,
        before=evaluate(gold, _above(candidates, current)),
        after=evaluate(gold, after),
        reliability_before=measure_reliability(_sigmoid(logits / config.score_temperature), correct),
        reliability_after=measure_reliability(_sigmoid(logits / temperature), correct),
        tuned_on={"file": file, "sha256": fingerprint(examples)},
    )


def _fit_thresholds(candidates: Candidates, gold: Gold, labels: Sequence[str], floor: float) -> dict[str, float]:
    of_label: dict[str, list[tuple[float, bool]]] = {label: [] for label in labels}
    for right, of_document in zip(gold, candidates, strict=True):
        for entity, logit in of_document.items():
            of_label[entity[2]].append((logit, entity in right))
    n_gold = Counter(label for entities in gold for _, _, label in entities)
    return {
        label: fit_threshold(
            np.array([logit for logit, _ in rows]),
            np.array([correct for _, correct in rows], dtype=np.bool_),
            n_gold[label],
            floor=floor,
        )
        for label, rows in of_label.items()
    }


def fit_threshold(
    logits: NDArray[np.float64], correct: NDArray[np.bool_], n_gold: int, *, floor: float = FLOOR
) -> float:
    """Choose the threshold of one label for the best F1, and stay near 0 unless it pays.

    What is maximised is F1 - |threshold| / n_gold: to move by one logit must gain about as much as one more right
    entity does. So the F1 is never below that of threshold 0, and labels with few examples hardly move. Of equally
    good thresholds the one nearest to 0 is taken, then the higher one.

    Args:
        logits: Of the label's candidates, in fp32 precision. Shape: (candidates,).
        correct: Whether each is right. Shape: (candidates,).
        n_gold: Gold entities of the label, candidates or not.
        floor: The logit above which all candidates lie.

    Returns:
        Midway between two candidates, in fp32 precision as the decoder compares it; 0 where 0 does the same.
    """
    if not n_gold or not len(logits):
        return 0.0
    order = np.argsort(-logits, kind="stable")
    uppers = logits[order]
    lowers = np.append(uppers[1:], floor)
    f1 = 2 * np.cumsum(correct[order]) / (n_gold + np.arange(1, len(order) + 1))
    choices = [(0.0, 0.0, 0.0)]
    for upper, lower, value in zip(uppers.tolist(), lowers.tolist(), f1.tolist(), strict=True):
        if upper > lower:
            threshold = _between(lower, upper)
            choices.append((value - abs(threshold) / n_gold, -abs(threshold), threshold))
    return max(choices)[2]


def _between(lower: float, upper: float) -> float:
    """A number of fp32 that is at least `lower` and below `upper`, both of fp32: 0 or the one midway."""
    if lower <= 0 < upper:
        return 0.0
    middle = float(np.float32((lower + upper) / 2))
    return middle if middle < upper else lower


def fit_temperature(logits: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Find the temperature at which the scores make the outcomes most likely (Guo et al., 2017, section 4.2).

    It is fitted to what is found, as only that ever gets a score. Outcomes are not 1 and 0 but what they are expected
    to be in other data, which keeps scores below 1 where all of a few entities are right (Platt, Probabilistic Outputs
    for Support Vector Machines, 1999, section 2.2).

    Args:
        logits: Of the found entities of all labels. Shape: (entities,).
        correct: Whether each is right. Shape: (entities,).
    """
    n_right = np.count_nonzero(correct)
    target = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (len(correct) - n_right + 2))
    low, high = 1 / GREATEST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The likelihood is concave in 1 / temperature, its derivative falls.
        if logits @ (target - _sigmoid(logits * middle)) > 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 of texts and entities, whatever their order, ids and file format."""
    contents = (json.dumps([example.text, sorted(example.entities)]).encode() for example in examples)
    return hashlib.sha256(
        "".join(sorted(hashlib.sha256(content).hexdigest() for content in contents)).encode()
    ).hexdigest()


def was_tuned_on(tuned_on: dict[str, str] | None, examples: Iterable[Example]) -> bool:
    """Whether a configuration's `tuned_on` means exactly these examples."""
    return tuned_on is not None and tuned_on.get("sha256") == fingerprint(examples)


def save_tuning(folder: Path, tuning: Tuning) -> None:
    """Write a tuning into a checkpoint's `config.json`, whole or not at all.

    Raises:
        ConfigError: If the file cannot be written.
    """
    config = read_config(folder)
    config["thresholds"] = list(tuning.thresholds.values())
    config["score_temperature"] = tuning.temperature
    config["tuned_on"] = tuning.tuned_on
    try:
        write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise ConfigError(f"a model must be in a folder that can be written, {folder} cannot: {error}") from error


def _above(candidates: Candidates, thresholds: dict[str, float]) -> list[set[EntitySpan]]:
    """Keep what the decoder would keep; it compares in fp32."""
    limits = {label: float(np.float32(threshold)) for label, threshold in thresholds.items()}
    return [{entity for entity, logit in found.items() if logit > limits[entity[2]]} for found in candidates]


def _outcomes(
    candidates: Candidates, gold: Gold, found: Sequence[set[EntitySpan]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits of what is found, and whether it is right. Shape of each: (entities,)."""
    rows = [
        (logits[entity], entity in right)
        for logits, right, entities in zip(candidates, gold, found, strict=True)
        for entity in sorted(entities)
    ]
    return np.array([logit for logit, _ in rows]), np.array([correct for _, correct in rows], dtype=np.bool_)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -logits))
