"""Time of the monosemanticity scores, 100 classes: dense 50,000 x 2,048 (target: 2 s each), and codes of
50,000 x 24,576 with 32 active (targets: native counts 0.5 s, all scores 10 s together).

python benchmarks/consistency.py
"""

import statistics
import time
from collections.abc import Callable

import torch

from monosem.data.codes import Codes
from monosem.measures.concept_latents import concept_latents
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.measures.similarity import similarity_monosemanticity

N_ROWS, N_DIMS, N_CLASSES, REPEATS = 50_000, 2_048, 100, 5
N_LATENTS, N_ACTIVE, N_EMBEDDED = 24_576, 32, 512


def seconds(score: Callable[[], object]) -> list[float]:
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
    indices = torch.randint(N_LATENTS, (N_ROWS, N_ACTIVE), generator=generator, dtype=torch.int32)
    codes = Codes(indices, torch.rand(N_ROWS, N_ACTIVE, generator=generator), N_LATENTS)
    embeddings = torch.randn(N_ROWS, N_EMBEDDED, generator=generator)
    cases: dict[str, Callable[[], object]] = {
        "native, dense": lambda: native_monosemanticity(dense, labels, N_CLASSES),
        "matched, dense": lambda: matched_monosemanticity(dense, labels, N_CLASSES),
        "matched, ties": lambda: matched_monosemanticity(sparse, labels, N_CLASSES),
        "native, codes": lambda: native_monosemanticity(codes, labels, N_CLASSES),
        "entropy, codes": lambda: native_monosemanticity(codes, labels, N_CLASSES, by="entropy"),
        "matched, codes": lambda: matched_monosemanticity(codes, labels, N_CLASSES),
        "similarity, codes": lambda: similarity_monosemanticity(codes, embeddings),
        "concepts, codes": lambda: concept_latents(codes, labels, N_CLASSES),
    }
    sparse = (dense - 2.6).relu_()  # about 0.5 % active: every column ties at zero
    for name, score in cases.items():
        times = seconds(score)
        print(f"{name:18s} {statistics.median(times):.2f} s  ({min(times):.2f} - {max(times):.2f})")


if __name__ == "__main__":
    main()
