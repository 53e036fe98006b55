"""Which form of products with sparse codes is quickest here: timed once, at the start of long work."""

import math
import time
from collections.abc import Callable, Mapping

_WORTH_TIMING = 2**30
_CLEARLY_FASTER = 0.9
_ROUNDS = 3


def is_worth_timing(multiplications: int) -> bool:
    """Whether a batch whose dense product takes so many is large enough to look for something faster."""
    return multiplications >= _WORTH_TIMING


def fastest(trials: Mapping[str, Callable[[], float]]) -> str:
    """The name of the trial whose best run is quickest; "dense" unless another is clearly quicker.

    They take turns, so that other work on the machine disturbs all alike. A trial gives a number out of what
    it made: reading it waits for a GPU.
    """
    best = dict.fromkeys(trials, math.inf)
    for _ in range(_ROUNDS):
        for name, trial in trials.items():
            best[name] = min(best[name], _seconds(trial))
    best["dense"] *= _CLEARLY_FASTER
    return min(best, key=lambda name: best[name])


def _seconds(trial: Callable[[], float]) -> float:
    started = time.perf_counter()
    trial()
    return time.perf_counter() - started
