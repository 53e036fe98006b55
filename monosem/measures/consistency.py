"""Semantic consistency: how far the samples that activate a dimension are of one class.

Section 4.1 of the paper scores a dimension by the share of the most frequent class among the samples
that activate it. Two rules say what "activate" means, and their scores are never mixed:

- *native*: the activation passes a threshold. Says something only about features that are sparse.
- *matched*: the sample is among the q largest activations of the dimension, the same q for every set.

A share means little by itself, because few samples agree by luck. Beside every score stands its chance:
the expected share of the most frequent class among as many samples drawn without regard to features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import numpy_stream
from monosem.measures.blocks import Features, Labels, check_labels, features_shape, row_blocks

_BLOCK_ROWS = 2048  # small enough that a block's mask and its transpose stay in the cache


@dataclass(frozen=True)
class Monosemanticity:
    """Scores of every dimension, each array `[D]`; dimensions that were not scored hold nan.

    Attributes:
        support: number of samples that activate the dimension.
        share: share of their most frequent class, in (0, 1].
        chance: expected share among as many samples whose labels were permuted.
    """

    support: np.ndarray
    share: np.ndarray
    chance: np.ndarray

    @property
    def corrected(self) -> np.ndarray:
        """`(share - chance) / (1 - chance)` `[D]`: 0 for luck, 1 for one class only."""
        gain: np.ndarray = (self.share - self.chance) / (1 - self.chance)
        return gain

    @property
    def n_scored(self) -> int:
        """Number of dimensions that were scored."""
        return int(np.isfinite(self.share).sum())

    def mean(self, values: np.ndarray, *, weighted: bool) -> float:
        """Mean of per-dimension `values` over the scored dimensions, by support if `weighted`; or nan."""
        scored = np.isfinite(self.share)
        if not scored.any():
            return float("nan")
        return float(np.average(values[scored], weights=self.support[scored] if weighted else None))

    def summary(self) -> dict[str, float]:
        """The numbers a table shows."""
        return {
            "n_scored": self.n_scored,
            "share": self.mean(self.share, weighted=False),
            "share_weighted": self.mean(self.share, weighted=True),
            "chance": self.mean(self.chance, weighted=False),
            "chance_weighted": self.mean(self.chance, weighted=True),
            "corrected": self.mean(self.corrected, weighted=False),
            "corrected_weighted": self.mean(self.corrected, weighted=True),
        }


def native_monosemanticity(
    features: Features,
    labels: Labels,
    n_classes: int,
    *,
    threshold: float = 0.0,
    min_support: int = 10,
    seed: int = 0,
) -> Monosemanticity:
    """Score each dimension over the samples whose activation exceeds `threshold` (section 4.1).

    Args:
        features: `[N, D]`.
        labels: `[N]` integers in `[0, n_classes)`.
        min_support: dimensions with fewer active samples are not scored (at least 2: one sample always
            agrees with itself).

    Raises:
        InputError: labels that do not fit, or `min_support` below 2.
    """
    n_rows, n_dims = features_shape(features)
    classes = check_labels(labels, n_rows, n_classes)
    if min_support < 2:
        raise InputError(f"min_support must be at least 2, got {min_support}")
    counts = _class_counts(features, classes, n_classes, torch.full((n_dims,), threshold), torch.gt)
    scored = counts.sum(axis=0) >= min_support
    return _score(counts, scored, chance_share(classes, n_classes, seed=seed))


def matched_monosemanticity(
    features: Features, labels: Labels, n_classes: int, *, q: int | None = None, seed: int = 0
) -> Monosemanticity:
    """Score each dimension over its `q` largest signed activations, by default N / 2K of them.

    Samples tied at the q-th place (the zeros of a sparse code) are drawn without replacement, so that the
    order of the samples cannot enter and a tie is worth chance. Constant dimensions are not scored.

    Args:
        features: `[N, D]`.
        labels: `[N]` integers in `[0, n_classes)`.

    Raises:
        InputError: labels that do not fit, or `q` outside `[2, N]`.
    """
    n_rows, _ = features_shape(features)
    classes = check_labels(labels, n_rows, n_classes)
    q = max(2, n_rows // (2 * n_classes)) if q is None else q
    if not 2 <= q <= n_rows:
        raise InputError(f"q must lie between 2 and the number of rows {n_rows}, got {q}")
    limits = _qth_largest(features, q)
    counts = _class_counts(features, classes, n_classes, limits, torch.ge)
    tied = np.flatnonzero(counts.sum(axis=0) > q)
    varies = np.ones(len(limits), dtype=bool)
    if len(tied):
        above = _class_counts(features, classes, n_classes, limits, torch.gt, columns=tied)
        varies[tied] = (counts[:, tied].sum(axis=0) < n_rows) | (above.sum(axis=0) > 0)
        random = numpy_stream(seed, "monosemanticity", "ties")
        for column, sure in zip(tied, above.T, strict=True):
            candidates = counts[:, column] - sure
            drawn = random.multivariate_hypergeometric(candidates, q - sure.sum(), method="marginals")
            counts[:, column] = sure + drawn
    return _score(counts, varies, chance_share(classes, n_classes, seed=seed))


def chance_share(labels: Labels, n_classes: int, *, seed: int = 0, permutations: int = 50) -> np.ndarray:
    """Expected share of the most frequent class among s samples drawn at random, `[N + 1]`, for every s.

    The first s labels of one permutation are such a draw for every s at once, and the count of their most
    frequent class is the running maximum of each label's rank within its class. Entry 0 is nan.

    Raises:
        InputError: labels outside `[0, n_classes)`.
    """
    classes = check_labels(labels, len(labels), n_classes)
    narrow = classes.astype(np.uint16 if n_classes <= 2**16 else np.int64)  # numpy sorts 16 bits by radix
    class_start = np.concatenate([[0], np.bincount(classes, minlength=n_classes).cumsum()])
    random = numpy_stream(seed, "monosemanticity", "chance")
    positions = np.arange(1, len(classes) + 1)
    total = np.zeros(len(classes))
    for _ in range(permutations):
        permuted = random.permutation(narrow)
        order = np.argsort(permuted, kind="stable")
        rank = np.empty(len(classes), dtype=np.int64)
        rank[order] = positions - class_start[permuted[order]]
        total += np.maximum.accumulate(rank) / positions
    return np.concatenate([[np.nan], total / permutations])


def _score(counts: np.ndarray, scored: np.ndarray, chance: np.ndarray) -> Monosemanticity:
    support = counts.sum(axis=0)
    share = np.full(len(support), np.nan)
    share[scored] = counts[:, scored].max(axis=0) / support[scored]
    return Monosemanticity(support, share, np.where(scored, chance[support], np.nan))


def _class_counts(
    features: Features,
    classes: np.ndarray,
    n_classes: int,
    limits: Tensor,
    passes: Callable[..., Tensor],
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """Per class and column, the number of samples whose activation `passes` the column's limit `[K, D]`.

    Counted by a matrix product of one-hot labels with the mask, in float32: exact up to 2^24 a block.
    """
    limits = limits if columns is None else limits[columns]
    counts = torch.zeros(n_classes, len(limits), dtype=torch.int64)
    mask = torch.empty(0)
    for span, block in row_blocks(features, _BLOCK_ROWS):
        values = (block if columns is None else block[:, columns]).cpu()
        if mask.shape != values.shape:
            mask = torch.empty(values.shape)
        passes(values, limits, out=mask)
        one_hot = torch.zeros(n_classes, len(values))
        one_hot.scatter_(0, torch.from_numpy(classes[span])[None], 1.0)
        counts += (one_hot @ mask).long()
    return counts.numpy()


def _qth_largest(features: Features, q: int) -> Tensor:
    """The q-th largest value of each column `[D]`, keeping only the q largest so far of each."""
    _, n_dims = features_shape(features)
    largest = torch.empty(n_dims, 0)
    for _, block in row_blocks(features, max(_BLOCK_ROWS, q)):
        pool = torch.cat([largest, block.cpu().T], dim=1)
        largest = pool.topk(min(q, pool.shape[1]), dim=1, sorted=False).values
    return largest.amin(dim=1)
