"""Do two ways of scoring dimensions put them in the same order?"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from monosem.core.errors import InputError
from monosem.core.stats import rank_correlation

_FEWEST = 3  # dimensions that both scores have: fewer have no order worth a number


def score_agreement(scores: Mapping[str, NDArray[np.float64]]) -> dict[tuple[str, str], float]:
    """Spearman's rank correlation of every two scores, over the dimensions that both of them have.

    scores: by name, `[D]` each, nan where a dimension was not scored. nan where they share fewer than three
    dimensions. A score that is the same for all dimensions agrees with none: 0.

    Raises:
        InputError: scores of different numbers of dimensions.
    """
    if len({len(values) for values in scores.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in scores.items())
        raise InputError(f"scores are of different numbers of dimensions: {lengths}")
    found = {}
    for one, other in combinations(scores, 2):
        both = np.isfinite(scores[one]) & np.isfinite(scores[other])
        enough = both.sum() >= _FEWEST
        found[one, other] = (
            rank_correlation(scores[one][both], scores[other][both], np.zeros(both.sum())).mean
            if enough
            else float("nan")
        )
    return found
