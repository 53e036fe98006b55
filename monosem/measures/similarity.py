"""Monosemanticity without labels: are the samples that activate a dimension like each other?

Likeness is judged by an independent encoder, so that a feature set is not asked about itself.
Source: the MonoSemanticity score of Pach et al., "Sparse Autoencoders Learn Monosemantic Features in
Vision-Language Models" (NeurIPS 2025).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.core.errors import InputError
from monosem.measures.blocks import (
    Features,
    SparseRows,
    entries_of,
    features_shape,
    is_sparse,
    row_blocks,
)


@dataclass(frozen=True)
class Similarity:
    """score: of every dimension [D], in [-1, 1]; nan where fewer than two samples activate it.

    chance: the score of a dimension that is as active on every sample, the same for all.
    """

    score: np.ndarray
    chance: float


@dataclass(frozen=True)
class _Sums:
    """Over the samples, of each dimension's activations a [D]: a, a^2, a e [D, E], smallest and largest."""

    plain: Tensor
    squared: Tensor
    embedded: Tensor
    low: Tensor
    high: Tensor


def similarity_monosemanticity(features: Features, embeddings: Features) -> Similarity:
    """Mean cosine similarity of two samples, each pair weighted by the product of its activations.

    Activations are scaled to [0, 1] by their smallest and largest value in each dimension. With these, a [N],
    and normalised embeddings e [N, E], the sum over all pairs of two samples is |sum a e|^2 - sum a^2, so the
    N x N matrix is never made. Sparse rows are read as they are.

    Args:
        features: `[N, D]`.
        embeddings: `[N, E]` of the same samples, by an independent encoder.

    Raises:
        InputError: another number of embeddings, or one that is zero or not finite.
    """
    n_rows, _ = features_shape(features)
    directions = _directions(embeddings)
    if len(directions) != n_rows:
        raise InputError(f"{n_rows} rows of features need as many embeddings, got {len(directions)}")
    sums = _sparse_sums(features, directions) if is_sparse(features) else _dense_sums(features, directions)
    whole = directions.sum(0)
    span = sums.high - sums.low
    scale = torch.where(span > 0, 1 / span, torch.nan)
    # Sums of (a - low) / span from those of a.
    plain = (sums.plain - n_rows * sums.low) * scale
    squared = (sums.squared - 2 * sums.low * sums.plain + n_rows * sums.low**2) * scale**2
    embedded = (sums.embedded - sums.low[:, None] * whole) * scale[:, None]
    pairs = plain**2 - squared
    enough = pairs > 1e-9 * plain**2
    score = torch.where(enough, (embedded.square().sum(1) - squared) / pairs, torch.nan)
    chance = float((whole.square().sum() - n_rows) / (n_rows * (n_rows - 1))) if n_rows > 1 else float("nan")
    return Similarity(score.numpy(), chance)


def _directions(embeddings: Features) -> Tensor:
    blocks = [block.double() for _, block in row_blocks(embeddings)]
    table = torch.cat(blocks).cpu()
    norms = table.norm(dim=1, keepdim=True)
    bad = ~(norms[:, 0].isfinite() & (norms[:, 0] > 0))
    if bad.any():
        raise InputError(f"embeddings: row {int(bad.nonzero()[0])} is zero or not finite")
    directions: Tensor = table / norms
    return directions


def _dense_sums(features: Features, directions: Tensor) -> _Sums:
    _, n_dims = features_shape(features)
    plain, squared = torch.zeros(2, n_dims, dtype=torch.float64)
    embedded = torch.zeros(n_dims, directions.shape[1], dtype=torch.float64)
    low = torch.full((n_dims,), torch.inf, dtype=torch.float64)
    high = -low
    for span, block in row_blocks(features):
        a = block.cpu().double()
        plain += a.sum(0)
        squared += a.square().sum(0)
        embedded += a.T @ directions[span]
        low, high = torch.minimum(low, a.amin(0)), torch.maximum(high, a.amax(0))
    return _Sums(plain, squared, embedded, low, high)


def _sparse_sums(features: SparseRows, directions: Tensor) -> _Sums:
    n_rows, n_dims = len(features.values), features.dim
    rows, columns, values = (part.cpu() for part in entries_of(features))
    values = values.double()
    counts = torch.bincount(columns, minlength=n_dims)
    # What a column does not hold is zero: it belongs to its smallest and largest value.
    held = counts == n_rows
    low, high = (
        torch.zeros(n_dims, dtype=torch.float64).scatter_reduce_(0, columns, values, how, include_self=False)
        for how in ("amin", "amax")
    )
    low, high = torch.where(held, low, low.clamp_max(0)), torch.where(held, high, high.clamp_min(0))
    sums = torch.zeros(2, n_dims, dtype=torch.float64)
    plain = sums[0].index_add_(0, columns, values)
    squared = sums[1].index_add_(0, columns, values.square())
    starts = counts.cumsum(0) - counts
    embedded = F.embedding_bag(rows, directions, starts, mode="sum", per_sample_weights=values)
    return _Sums(plain, squared, embedded, low, high)
