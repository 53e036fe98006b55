"""Which form of products with sparse codes is quickest here: timed once, at the start of long work."""

import time
from collections.abc import Callable, Mapping

_WORTH_TIMING = 2**30
_CLEARLY_FASTER = 0.9


def is_worth_timing(multiplications: int) -> bool:
    """Whether a batch whose dense product takes so many is large enough to look for something faster."""
    return multiplications >= _WORTH_TIMING


def fastest(trials: Mapping[str, Callable[[], float]]) -> str:
    """The name of the quickest trial, each run twice; "dense" unless another is clearly quicker.

    A trial gives a number out of what it made: reading it waits for a GPU.
    """
    seconds = {name: min(_seconds(trial) for _ in range(2)) for name, trial in trials.items()}
    seconds["dense"] *= _CLEARLY_FASTER
    return min(seconds, key=lambda name: seconds[name])


def _seconds(trial: Callable[[], float]) -> float:
    started = time.perf_counter()
    trial()
    return time.perf_counter() - started
