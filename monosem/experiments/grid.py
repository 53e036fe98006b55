"""One feature set against every corruption and noise draw, under one protocol: rows of accuracy and more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.data.label_noise import corrupt_labels, label_signal
from monosem.experiments.recipes import Recipe
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.measures.geometry import active_dimensions, effective_dimension, knn_accuracy, l0
from monosem.robust.probe import train_probes
from monosem.robust.ridge import RidgePath

Row = dict[str, Any]


@dataclass(frozen=True)
class LabelCells:
    """Noisy training labels of a recipe: cell 0 is clean, then every level with every noise draw.

    `labels` and `flipped` are [P, N]; `levels` and `noise_seeds` name the P cells.
    """

    condition: str
    levels: tuple[float, ...]
    noise_seeds: tuple[int, ...]
    labels: Tensor
    flipped: Tensor
    signal: tuple[float, ...]


def label_cells(labels: Tensor, n_classes: int, grid: LabelNoiseGrid, draws: int, seed: int) -> LabelCells:
    """Every noisy version of the training labels [N] that `grid` asks for; all feature sets of a pair share it."""
    cells = [(0.0, 0)] + [(level, draw) for level in grid.levels for draw in range(draws)]
    noisy = [corrupt_labels(labels, level, noise_seed(seed, draw), n_classes, kind=grid.kind) for level, draw in cells]
    return LabelCells(
        condition=f"label-noise-{grid.kind.replace('_', '-')}",
        levels=tuple(level for level, _ in cells),
        noise_seeds=tuple(draw for _, draw in cells),
        labels=torch.stack([cell.labels for cell in noisy]),
        flipped=torch.stack([cell.flipped for cell in noisy]),
        signal=tuple(label_signal(level, n_classes, grid.kind) for level, _ in cells),
    )


def noise_seed(seed: int, draw: int) -> int:
    """The seed of one noise draw of one encoder pair: pairs are independent, so their noise is too."""
    return stream_seed(seed, "noise", draw)


@dataclass(frozen=True)
class TestFeatures:
    """Features of the test images: clean [M, D], and under each cell of input noise."""

    condition: str
    labels: Tensor
    clean: Tensor
    noisy: Sequence[tuple[float, int, Tensor]]


@dataclass(frozen=True)
class Outcome:
    """Rows of results, and per-sample correctness of the primary endpoint by (protocol, condition): [M]."""

    rows: list[Row]
    correctness: dict[tuple[str, str], Tensor]


def published_protocol(
    train: Tensor, cells: LabelCells, test: TestFeatures, recipe: Recipe, seed: int, watch: Watch = SILENT
) -> Outcome:
    """The paper's protocol: gradient-trained probes with fixed settings, all cells as one batched problem."""
    probes = train_probes(train, cells.labels, _n_classes(cells), recipe.published, seed, watch)
    fits = probes.predict(train)
    noisy = [(level, draw, probes[0].predict(features)[0]) for level, draw, features in test.noisy]
    return _outcome("published", cells, fits, probes.predict(test.clean), test, noisy, {})


def tuned_protocol(train: Tensor, cells: LabelCells, test: TestFeatures, recipe: Recipe) -> Outcome:
    """Ridge probes: *tuned* by leave-one-out on the noisy labels, and *oracle* by the clean test labels.

    The oracle is the best of the grid on the very test samples it is scored on: an upper bound nobody can have.
    """
    raise NotImplementedError
