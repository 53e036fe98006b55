"""Time of the monosemanticity scores on dense features: 50,000 x 2,048, 100 classes (target: 2 s each).

python benchmarks/consistency.py
"""

import statistics
import time
from collections.abc import Callable

import torch

from monosem.measures.consistency import (
    Monosemanticity,
    matched_monosemanticity,
    native_monosemanticity,
)

N_ROWS, N_DIMS, N_CLASSES, REPEATS = 50_000, 2_048, 100, 5


def seconds(score: Callable[[], Monosemanticity]) -> list[float]:
    """Wall times of `REPEATS` calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print the median and the range over five calls of each score."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(N_ROWS, N_DIMS, generator=generator)
    labels = torch.randint(N_CLASSES, (N_ROWS,), generator=generator)
    print(f"{N_ROWS:,} x {N_DIMS:,}, {N_CLASSES} classes, {torch.get_num_threads()} threads")
    cases: dict[str, Callable[[], Monosemanticity]] = {
        "native, dense": lambda: native_monosemanticity(dense, labels, N_CLASSES),
        "matched, dense": lambda: matched_monosemanticity(dense, labels, N_CLASSES),
        "matched, sparse": lambda: matched_monosemanticity(sparse, labels, N_CLASSES),
    }
    sparse = (dense - 2.6).relu_()  # about 0.5 % active: every column ties at zero
    for name, score in cases.items():
        times = seconds(score)
        print(f"{name:16s} {statistics.median(times):.2f} s  ({min(times):.2f} - {max(times):.2f})")


if __name__ == "__main__":
    main()
