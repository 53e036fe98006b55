"""Semantic consistency: how far the samples that activate a dimension are of one class.

Section 4.1 of the paper scores a dimension by the share of the most frequent class among the samples
that activate it. Two rules say what "activate" means, and their scores are never mixed:

- *native*: the activation passes a threshold. Says something only about features that are sparse.
- *matched*: the sample is among the q largest activations of the dimension, the same q for every set.

A score is the share of the most frequent class among these samples, as in the paper, or by entropy, which
sees all classes: 1 - H / log K, which is 1 for one class only and 0 for all classes alike.

Either means little by itself, because few samples agree by luck. Beside every score stands its chance: what
as many samples drawn without regard to features are expected to give.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import numpy_stream
from monosem.measures.blocks import (
    Features,
    Labels,
    SparseRows,
    check_labels,
    entries_of,
    features_shape,
    is_sparse,
    row_blocks,
)

Measure = Literal["share", "entropy"]

_BLOCK_ROWS = 2048  # small enough that a block's mask and its transpose stay in the cache


@dataclass(frozen=True)
class Monosemanticity:
    """Scores of every dimension, each array `[D]`; dimensions that were not scored hold nan.

    Attributes:
        support: number of samples that activate the dimension.
        share: share of their most frequent class, in (0, 1]; by entropy, 1 - H / log K in [0, 1].
        chance: its expectation for as many samples whose labels were permuted.
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
    by: Measure = "share",
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
    return _score(counts, scored, classes, n_classes, by, seed)


def matched_monosemanticity(
    features: Features,
    labels: Labels,
    n_classes: int,
    *,
    q: int | None = None,
    by: Measure = "share",
    seed: int = 0,
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
    return _score(counts, varies, classes, n_classes, by, seed)


def chance_share(
    labels: Labels, n_classes: int, *, by: Measure = "share", seed: int = 0, permutations: int = 50
) -> np.ndarray:
    """Expected score of s samples drawn at random, `[N + 1]`, for every s.

    The first s labels of one permutation are such a draw for every s at once. The count of their most
    frequent class is the running maximum of each label's rank within its class; their entropy follows from
    the running sum of c log c over the class counts c, to which a label of rank r adds
    r log r - (r - 1) log(r - 1). Entry 0 is nan.

    Raises:
        InputError: labels outside `[0, n_classes)`.
    """
    classes = check_labels(labels, len(labels), n_classes)
    narrow = classes.astype(np.uint16 if n_classes <= 2**16 else np.int64)  # numpy sorts 16 bits by radix
    class_start = np.concatenate([[0], np.bincount(classes, minlength=n_classes).cumsum()])
    random = numpy_stream(seed, "monosemanticity", "chance")
    positions = np.arange(1, len(classes) + 1)
    c_log_c = xlogy(np.arange(len(classes) + 1), np.arange(len(classes) + 1))
    total = np.zeros(len(classes))
    for _ in range(permutations):
        permuted = random.permutation(narrow)
        order = np.argsort(permuted, kind="stable")
        rank = np.empty(len(classes), dtype=np.int64)
        rank[order] = positions - class_start[permuted[order]]
        if by == "share":
            total += np.maximum.accumulate(rank) / positions
        else:
            total += _purity(np.cumsum(c_log_c[rank] - c_log_c[rank - 1]), positions, n_classes)
    return np.concatenate([[np.nan], total / permutations])


def _purity(sum_c_log_c: np.ndarray, support: np.ndarray, n_classes: int) -> np.ndarray:
    """1 - H / log K from the sum of c log c over the class counts c, which add up to `support`."""
    entropy = np.log(support) - sum_c_log_c / support
    purity: np.ndarray = 1 - entropy / np.log(n_classes)
    return purity


def _score(
    counts: np.ndarray, scored: np.ndarray, classes: np.ndarray, n_classes: int, by: Measure, seed: int
) -> Monosemanticity:
    support = counts.sum(axis=0)
    share = np.full(len(support), np.nan)
    of_scored = counts[:, scored]
    if by == "share":
        share[scored] = of_scored.max(axis=0) / support[scored]
    else:
        share[scored] = _purity(xlogy(of_scored, of_scored).sum(axis=0), support[scored], n_classes)
    chance = chance_share(classes, n_classes, by=by, seed=seed)
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

    Counted by a matrix product of one-hot labels with the mask, in float32: exact up to 2^24 a block. Sparse
    rows are counted entry by entry.
    """
    if is_sparse(features):
        counted = _sparse_class_counts(features, classes, n_classes, limits, passes)
        return counted if columns is None else counted[:, columns]
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


def _sparse_class_counts(
    features: SparseRows, classes: np.ndarray, n_classes: int, limits: Tensor, passes: Callable[..., Tensor]
) -> np.ndarray:
    rows, columns, values = (part.cpu() for part in entries_of(features))
    places = torch.from_numpy(classes)[rows] * features.dim + columns
    n_places = n_classes * features.dim
    passed = torch.bincount(places[passes(values, limits[columns])], minlength=n_places)
    counts = passed.view(n_classes, -1)
    zero_passes = passes(torch.zeros(features.dim, dtype=values.dtype), limits)
    if zero_passes.any():
        zeros = torch.from_numpy(np.bincount(classes, minlength=n_classes))[:, None]
        zeros = zeros - torch.bincount(places, minlength=n_places).view(n_classes, -1)
        counts = counts + zeros * zero_passes
    return counts.numpy()


def _sparse_qth_largest(features: SparseRows, q: int) -> Tensor:
    _, columns, values = (part.cpu() for part in entries_of(features))
    descending = values.argsort(descending=True, stable=True)
    descending = descending[columns[descending].argsort(stable=True)]
    held = torch.bincount(columns, minlength=features.dim)
    positive = torch.bincount(columns[values > 0], minlength=features.dim)
    zeros = len(features.values) - held
    is_zero = (positive < q) & (q <= positive + zeros)
    place = held.cumsum(0) - held + torch.where(q <= positive, q - 1, q - 1 - zeros)
    found = torch.zeros(features.dim, dtype=values.dtype)
    found[~is_zero] = values[descending][place[~is_zero]]
    return found


def _qth_largest(features: Features, q: int) -> Tensor:
    """The q-th largest value of each column `[D]`, keeping only the q largest so far of each."""
    if is_sparse(features):
        return _sparse_qth_largest(features, q)
    _, n_dims = features_shape(features)
    largest = torch.empty(n_dims, 0)
    for _, block in row_blocks(features, max(_BLOCK_ROWS, q)):
        pool = torch.cat([largest, block.cpu().T], dim=1)
        largest = pool.topk(min(q, pool.shape[1]), dim=1, sorted=False).values
    return largest.amin(dim=1)
