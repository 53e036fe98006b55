"""Does one latent tell a concept, and is it the only one? Concepts are classes, each against all others.

Source: the Feature Monosemanticity Score of Haerle et al., "Measuring and Guiding Monosemanticity" (2025).
Two things differ from there: the best of many latents looks better than it is, so latents and thresholds are
chosen on one half of the samples and scored on the other; and accuracies are balanced (0.5 is a guess).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import numpy_stream
from monosem.measures.blocks import (
    Entries,
    Features,
    Labels,
    check_labels,
    entries_of,
    features_shape,
    is_sparse,
    row_blocks,
)

_COLUMNS = 64  # of a dense table that are sorted at a time


@dataclass(frozen=True)
class ConceptLatents:
    """What single latents and few of them tell of each of K concepts; accuracies are balanced.

    latents: the best ones, best first [K, n]. alone: accuracy of the best one [K]. without: of the best one
    once `removed` better ones are gone [K]. together: of a tree on the first 1, 2, ... n of them [K, n].
    Concepts with fewer than two samples in either half hold nan.
    """

    latents: np.ndarray
    alone: np.ndarray
    without: np.ndarray
    together: np.ndarray

    @property
    def local(self) -> np.ndarray:
        """2 (alone - without) [K]: 1 when nothing but the best latent knows the concept."""
        local: np.ndarray = 2 * (self.alone - self.without)
        return local

    @property
    def overall(self) -> np.ndarray:
        """1 - mean gain from further latents [K]: 1 when the best latent needs no help."""
        gain: np.ndarray = (self.together - self.alone[:, None]).mean(1)
        return 1 - gain

    @property
    def score(self) -> np.ndarray:
        """alone (local + overall) / 2 [K], the Feature Monosemanticity Score of each concept."""
        score: np.ndarray = self.alone * (self.local + self.overall) / 2
        return score


def concept_latents(
    features: Features, labels: Labels, n_classes: int, *, removed: int = 1, n: int = 5, seed: int = 0
) -> ConceptLatents:
    """Find the latents that tell each class from the others, and how much each of them is needed.

    A latent tells a concept by being at least as active as a threshold. Sparse rows are read entry by entry,
    and of them only what is positive.

    Args:
        features: `[N, D]`.
        labels: `[N]` integers in `[0, n_classes)`.
        removed: how many of the best latents are taken away for `without`.
        n: how many latents a tree may use.

    Raises:
        InputError: labels that do not fit, or fewer dimensions than `removed` + 1 or `n`.
    """
    n_rows, n_dims = features_shape(features)
    classes = check_labels(labels, n_rows, n_classes)
    kept = max(removed + 1, n)
    if n_dims < kept:
        raise InputError(f"{n_dims} dimensions are fewer than the {kept} latents asked for")
    choosing = _half(classes, seed)
    gains, thresholds = _best_thresholds(features, classes, choosing, n_classes)
    order = np.argsort(-gains, axis=1, kind="stable")[:, :kept]
    alone, without = np.full((2, n_classes), np.nan)
    together = np.full((n_classes, n), np.nan)
    activations = _columns(features, np.unique(order))
    random = numpy_stream(seed, "concept_latents", "negatives")
    for concept in range(n_classes):
        is_one = classes == concept
        if min((is_one & choosing).sum(), (is_one & ~choosing).sum()) < 2:
            continue
        table = np.stack([activations[latent] for latent in order[concept]], axis=1)
        passed = table[~choosing] >= thresholds[concept, order[concept]]
        told = _balanced(passed, is_one[~choosing][:, None])
        alone[concept], without[concept] = told[0], told[removed]
        together[concept] = _trees(table[:, :n], is_one, choosing, random)
    return ConceptLatents(order[:, :n], alone, without, together)


def _half(classes: np.ndarray, seed: int) -> np.ndarray:
    """Half of each class, drawn."""
    shuffled = numpy_stream(seed, "concept_latents", "half").permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.bincount(classes).cumsum()])
    place = np.arange(len(classes)) - starts[classes[by_class]]
    chosen = np.zeros(len(classes), dtype=bool)
    chosen[by_class] = place % 2 == 0
    return chosen


def _best_thresholds(
    features: Features, classes: np.ndarray, choosing: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each class and latent the largest TPR - FPR on the chosen half, and its threshold: [K, D] each.

    With a latent's samples from the most active down, TPR - FPR of a class rises only where a sample of that
    class comes in: every sample is looked at for its own class alone.
    """
    _, n_dims = features_shape(features)
    gains = np.zeros((n_classes, n_dims))
    thresholds = np.full((n_classes, n_dims), np.inf)
    sizes = np.bincount(classes[choosing], minlength=n_classes).astype(np.float64)
    others = choosing.sum() - sizes
    for first, entries in _entries(features):
        rows, columns, values = (part.cpu().numpy() for part in entries)
        held = choosing[rows]
        rows, columns, values = rows[held], columns[held], values[held]
        order = np.lexsort((-values, columns))
        own, columns, values = classes[rows[order]], columns[order], values[order]
        if not len(values):
            continue
        new_column = np.flatnonzero(np.r_[True, columns[1:] != columns[:-1]])
        position = np.arange(len(values)) - np.repeat(new_column, np.diff(np.r_[new_column, len(values)])) + 1
        # Equal values come in together: counts are those at the last of them.
        last = np.r_[(columns[1:] != columns[:-1]) | (values[1:] != values[:-1]), True]
        ends = np.flatnonzero(last)
        reached = position[ends[np.searchsorted(ends, np.arange(len(values)))]]
        key = own * (columns.max() + 1) + columns
        by_class = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(key[by_class]) != 0])
        of_class = np.empty(len(values))
        of_class[by_class] = (
            np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)])) + 1
        )
        # Of equal values of one class the last counts them all.
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = of_class / sizes[own] - (reached - of_class) / others[own]
        place = own * n_dims + columns + first
        better = np.lexsort((gain, place))
        top = better[np.r_[place[better][1:] != place[better][:-1], True]]
        gains.ravel()[place[top]] = np.maximum(gain[top], 0)
        thresholds.ravel()[place[top]] = values[top]
    return gains, thresholds


def _entries(features: Features) -> "list[tuple[int, Entries]]":
    """Entries with the number of their first column: all that is positive of sparse rows, all of others."""
    if is_sparse(features):
        found = entries_of(features)
        positive = found.values > 0
        return [(0, Entries(*(part[positive] for part in found)))]
    table = torch.cat([block.cpu() for _, block in row_blocks(features)])
    blocks = []
    for first in range(0, table.shape[1], _COLUMNS):
        part = table[:, first : first + _COLUMNS]
        rows = torch.arange(len(part))[:, None].expand_as(part)
        columns = torch.arange(part.shape[1]).expand_as(part)
        blocks.append((first, Entries(rows.flatten(), columns.flatten(), part.flatten())))
    return blocks


def _columns(features: Features, wanted: np.ndarray) -> dict[int, np.ndarray]:
    """Some columns, dense [N] each."""
    n_rows, _ = features_shape(features)
    if not is_sparse(features):
        table = torch.cat([block[:, torch.from_numpy(wanted)].cpu() for _, block in row_blocks(features)])
        return dict(zip(wanted.tolist(), table.numpy().T, strict=True))
    rows, columns, values = (part.cpu() for part in entries_of(features))
    starts, ends = (
        torch.searchsorted(columns, torch.from_numpy(wanted), right=right) for right in (False, True)
    )
    found = {}
    for column, start, end in zip(wanted.tolist(), starts.tolist(), ends.tolist(), strict=True):
        dense: Tensor = torch.zeros(n_rows, dtype=values.dtype)
        dense[rows[start:end]] = values[start:end]
        found[column] = dense.numpy()
    return found


def _balanced(told: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean of the accuracies on both sides, over samples: [N, m] predictions give [m]."""
    right = told == truth
    on_both: np.ndarray = (
        (right & truth).sum(0) / truth.sum(0) + (right & ~truth).sum(0) / (~truth).sum(0)
    ) / 2
    return on_both


def _trees(
    table: np.ndarray, is_one: np.ndarray, choosing: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Balanced accuracies of trees on the first 1, 2, ... columns, one question for each, [n]."""
    from sklearn.tree import DecisionTreeClassifier

    positives = np.flatnonzero(is_one & choosing)
    negatives = np.flatnonzero(~is_one & choosing)
    negatives = random.choice(negatives, min(len(positives), len(negatives)), replace=False)
    fitted = np.concatenate([positives, negatives])
    accuracies = []
    for width in range(1, table.shape[1] + 1):
        tree = DecisionTreeClassifier(max_depth=width, class_weight="balanced", random_state=0)
        tree.fit(table[fitted, :width], is_one[fitted])
        told = tree.predict(table[~choosing, :width])
        accuracies.append(_balanced(told[:, None], is_one[~choosing][:, None])[0])
    return np.array(accuracies)
