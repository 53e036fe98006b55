"""Rows of plain arrays, tensors and feature sets, drawn in any order."""

import numpy as np
import torch
from torch import Tensor

from monosem.data.feature_set import FeatureSet
from monosem.measures.blocks import as_floats

Inputs = np.ndarray | Tensor | FeatureSet


def take_rows(features: Inputs, rows: Tensor) -> Tensor:
    """Rows (indices `[n]`, any order) as a dense tensor `[n, D]`; of shards on disk no others are read."""
    if isinstance(features, Tensor):
        return as_floats(features[rows.to(features.device)])
    if isinstance(features, np.ndarray):
        return as_floats(features[rows.numpy()])
    return torch.from_numpy(features.take(rows.numpy()))


def spread_rows(n: int, most: int, length: int) -> Tensor:
    """Row numbers out of 0..n-1, rising: all, or `most` of them in evenly spaced stretches of neighbours.

    length: of a stretch, which divides `most`. Short ones meet every class of samples sorted by class, long
    ones are read from a disk faster.
    """
    if n <= most:
        return torch.arange(n)
    starts = torch.linspace(0, n - length, most // length, dtype=torch.float64).long()
    return (starts[:, None] + torch.arange(length)).flatten()
