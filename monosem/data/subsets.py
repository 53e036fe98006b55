"""Stratified subsets: fewer samples, the same mixture of classes."""

import numpy as np


def stratified_indices(labels: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of a random subset of exactly `size` samples: int64 [size], sorted.

    Each class gets its share of `size`, rounded down; what is left goes to the largest remainders (ties to
    the lower class). A `size` beyond the number of samples N takes all of them.

    Args:
        labels: int [N].
        size: number of samples, at least 1.
        generator: the named stream that picks within the classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    size = min(size, len(labels))
    # In whole numbers, since equal remainders must tie exactly.
    quotas, remainders = np.divmod(size * counts, len(labels))
    largest = np.argsort(-remainders, kind="stable")[: size - quotas.sum()]
    quotas[largest] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
