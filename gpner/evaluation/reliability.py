"""Whether scores mean what they say: of the entities scored 0.8, eight in ten should be right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Equal in width, so that tables of different models and corpora compare bin by bin.
BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The entities scored from `low` to `high`: how many, their mean score, and the share of them that is right."""

    low: float
    high: float
    count: int
    mean_score: float
    share_correct: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability table.

    Attributes:
        bins: The bins that hold an entity, by score.
        count: Entities in all of them.
        expected_calibration_error: Mean distance of score and share in a bin, weighted by entities (Guo et al., On
            Calibration of Modern Neural Networks, 2017, section 2). 0 is perfect.
    """

    bins: tuple[ReliabilityBin, ...]
    count: int
    expected_calibration_error: float


def measure_reliability(
    scores: Sequence[float] | NDArray[np.float64], correct: Sequence[bool] | NDArray[np.bool_]
) -> Reliability:
    """Compare the scores of entities with what came of them.

    Args:
        scores: From 0 to 1; a bin has its upper end, the first one both.
        correct: Whether each entity is right.
    """
    score, right = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    places = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    score_sums, right_sums = (np.bincount(places, weights=values, minlength=BINS) for values in (score, right))
    bins = tuple(
        ReliabilityBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            count=int(counts[place]),
            mean_score=float(score_sums[place] / counts[place]),
            share_correct=float(right_sums[place] / counts[place]),
        )
        for place in np.flatnonzero(counts).tolist()
    )
    error = float(np.abs(score_sums - right_sums).sum() / max(1, len(score)))
    return Reliability(bins, len(score), error)
