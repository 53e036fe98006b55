"""Results with a planted truth: what each feature set scores, per encoder and noise draw."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from monosem.experiments.results import rows

CONDITION = "label-noise-symmetric"
LEVELS = (0.2, 0.4)

PlantedResults = Callable[..., pd.DataFrame]


@pytest.fixture
def planted_results() -> PlantedResults:
    """Make results from {(protocol, features): one score per encoder}; levels and draws scatter around it."""

    def make(scores: dict[tuple[str, str], Sequence[float]], n_noise: int = 3, clean_bonus: float = 0.1):
        cells = []
        for (protocol, features), by_encoder in scores.items():
            for encoder, score in enumerate(by_encoder):
                facts = {
                    "protocol": protocol,
                    "features": features,
                    "condition": CONDITION,
                    "metric": "accuracy",
                }
                facts |= {"encoder_seed": encoder, "n": 100}
                cells.append({**facts, "level": 0.0, "noise_seed": 0, "value": score + clean_bonus})
                # Deviations that cancel over draws and levels, so endpoints are exactly the planted scores.
                deviations = np.linspace(-0.01, 0.01, n_noise)
                for level, sign in zip(LEVELS, (1, -1), strict=True):
                    for draw in range(n_noise):
                        value = score + sign * 0.03 + deviations[draw]
                        cells.append({**facts, "level": level, "noise_seed": draw, "value": value})
        return rows({"dataset": "planted", "encoder": "none"}, cells)

    return make
