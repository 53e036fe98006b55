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


def stretches(n: int, most: int, length: int) -> list[range]:
    """Row numbers out of 0..n-1, all or about `most` of them: stretches of neighbours, evenly spaced."""
    every = -(-n // most)
    return [range(first, min(first + length, n)) for first in range(0, n, every * length)]
