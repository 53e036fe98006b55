"""One feature set against every corruption and noise draw, under each protocol: rows of accuracy and more.

Cell 0 is always clean; the primary endpoint is the mean over the other cells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import stream_seed
from monosem.data.label_noise import corrupt_labels, label_signal
from monosem.experiments.recipes import LabelNoiseGrid
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.measures.geometry import active_dimensions, effective_dimension, knn_accuracy, l0
from monosem.robust.probe import ProbeSettings, train_probes
from monosem.robust.ridge import RidgeFits, RidgePath, RidgeSettings

Row = dict[str, Any]
Cell = tuple[float, int]
"""(level, number of the noise draw)."""


@dataclass(frozen=True)
class LabelCells:
    """Training labels under every cell of label noise: `labels` and `flipped` are [P, N], cell 0 is clean."""

    condition: str
    cells: tuple[Cell, ...]
    labels: Tensor
    flipped: Tensor
    signal: tuple[float, ...]
    n_classes: int

    def to(self, device: torch.device) -> "LabelCells":
        """The same on another device."""
        return replace(self, labels=self.labels.to(device), flipped=self.flipped.to(device))


@dataclass(frozen=True)
class ProbedFeatures:
    """Features of the test images, labels [M]: `clean` [M, D], and under every cell of input noise."""

    condition: str
    labels: Tensor
    clean: Tensor
    cells: tuple[Cell, ...]
    noisy: Sequence[Tensor]


@dataclass(frozen=True)
class Outcome:
    """Rows of results, and per-sample correctness of the primary endpoint by (protocol, condition): [M]."""

    rows: list[Row]
    correctness: dict[tuple[str, str], Tensor]


def noise_cells(levels: Iterable[float], draws: int) -> tuple[Cell, ...]:
    """Every level with every noise draw."""
    return tuple((level, draw) for level in levels for draw in range(draws))


def noise_seed(seed: int, draw: int) -> int:
    """The seed of one noise draw of one encoder pair: pairs are independent, so their noise is too."""
    return stream_seed(seed, "noise", draw)


def corrupt(labels: Tensor, n_classes: int, grid: LabelNoiseGrid, draws: int, seed: int) -> LabelCells:
    """Every noisy version of the training labels [N] that `grid` asks for, one for all feature sets."""
    cells = ((0.0, 0), *noise_cells(grid.levels, draws))
    noisy = [
        corrupt_labels(labels, level, noise_seed(seed, draw), n_classes, kind=grid.kind)
        for level, draw in cells
    ]
    return LabelCells(
        condition=f"label-noise-{grid.kind.replace('_', '-')}",
        cells=cells,
        labels=torch.stack([one.labels for one in noisy]),
        flipped=torch.stack([one.flipped for one in noisy]),
        signal=tuple(label_signal(level, n_classes, grid.kind) for level, _ in cells),
        n_classes=n_classes,
    )


def published_protocol(
    train: Tensor,
    noisy: LabelCells,
    test: ProbedFeatures,
    settings: ProbeSettings,
    seed: int,
    watch: Watch = SILENT,
    checkpoint: Path | None = None,
) -> Outcome:
    """The paper's protocol: gradient-trained probes with fixed settings, all cells as one batched problem."""
    probes = train_probes(train, noisy.labels, noisy.n_classes, settings, seed, watch, checkpoint=checkpoint)
    on_noisy_inputs = [probes[:1].predict(features)[0] for features in test.noisy]
    return _outcome(
        "published", noisy, test, probes.predict(train), probes.predict(test.clean), on_noisy_inputs
    )


def tuned_protocol(
    train: Tensor, noisy: LabelCells, test: ProbedFeatures, settings: RidgeSettings, seed: int
) -> Outcome:
    """Ridge probes, the strength chosen twice for every cell: *tuned* and *oracle*.

    Tuned takes the least leave-one-out error on the noisy labels. The oracle takes the best accuracy on the
    very test samples it is scored on: an upper bound nobody can have.
    """
    fits = RidgePath.fit(train).solve(noisy.labels, noisy.n_classes, settings, seed)
    clean = fits[:1]
    tuned, oracle = fits.tuned(), fits.oracle(test.clean, test.labels)
    outcomes = []
    for protocol, choice, choices_on_noisy_inputs in (
        ("tuned", tuned, [clean.tuned()] * len(test.noisy)),
        ("oracle", oracle, [clean.oracle(features, test.labels) for features in test.noisy]),
    ):
        probes = fits.probes(choice)
        on_noisy_inputs = [
            clean.probes(chosen).predict(features)[0]
            for chosen, features in zip(choices_on_noisy_inputs, test.noisy, strict=True)
        ]
        outcomes.append(
            _outcome(
                protocol, noisy, test, probes.predict(train), probes.predict(test.clean), on_noisy_inputs
            )
        )
    rows = [row for outcome in outcomes for row in outcome.rows] + _choices(noisy, fits, tuned)
    return Outcome(rows, {**outcomes[0].correctness, **outcomes[1].correctness})


def measure(train: Tensor, train_labels: Tensor, test: ProbedFeatures, n_classes: int) -> Outcome:
    """Monosemanticity, sparsity, geometry and kNN accuracy of a feature set, on the test images."""
    values = {"dimensions": float(train.shape[1])}
    scores = {
        "native_monosemanticity": native_monosemanticity(test.clean, test.labels, n_classes),
        "matched_monosemanticity": matched_monosemanticity(test.clean, test.labels, n_classes),
    }
    for name, score in scores.items():
        summary = score.summary()
        values[name] = summary["corrected_weighted"]
        values[f"{name}_unweighted"] = summary["corrected"]
        values[f"{name}_chance"] = summary["chance_weighted"]
        values[f"{name}_dimensions"] = summary["n_scored"]
    values |= {
        "l0": l0(test.clean),
        "active_dimensions": float(active_dimensions(test.clean)),
        "effective_dimension": effective_dimension(test.clean),
        "knn_accuracy": knn_accuracy(train, train_labels, test.clean, test.labels, n_classes),
    }
    shared = {
        "protocol": "measured",
        "condition": "clean",
        "level": 0.0,
        "noise_seed": 0,
        "n": len(test.labels),
    }
    return Outcome([{**shared, "metric": name, "value": value} for name, value in values.items()], {})


def _outcome(
    protocol: str,
    noisy: LabelCells,
    test: ProbedFeatures,
    fits: Tensor,
    predictions: Tensor,
    on_noisy_inputs: Sequence[Tensor],
) -> Outcome:
    """Score training fits [P, N], clean test predictions [P, M] and those on noisy inputs, [M] each."""
    rows: list[Row] = []
    correct = predictions == test.labels
    for cell, (level, draw) in enumerate(noisy.cells):
        shared = {"protocol": protocol, "condition": noisy.condition, "level": level, "noise_seed": draw}
        rows.append({**shared, "metric": "accuracy", "value": _mean(correct[cell]), "n": len(test.labels)})
        flipped = noisy.flipped[cell]
        if flipped.any():
            memorised = _mean(fits[cell][flipped] == noisy.labels[cell][flipped])
            rows.append({**shared, "metric": "memorised", "value": memorised, "n": int(flipped.sum())})
            rows.append({**shared, "metric": "label_signal", "value": noisy.signal[cell], "n": len(flipped)})
    shared = {"protocol": protocol, "condition": test.condition, "metric": "accuracy", "n": len(test.labels)}
    correct_noisy = [prediction == test.labels for prediction in on_noisy_inputs]
    for (level, draw), right in zip(((0.0, 0), *test.cells), (correct[0], *correct_noisy), strict=True):
        rows.append({**shared, "level": level, "noise_seed": draw, "value": _mean(right)})
    correctness = {
        (protocol, noisy.condition): correct[1:].float().mean(dim=0),
        (protocol, test.condition): torch.stack(correct_noisy).float().mean(dim=0),
    }
    return Outcome(rows, correctness)


def _choices(noisy: LabelCells, fits: RidgeFits, choice: Tensor) -> list[Row]:
    """The chosen strengths, and whether a wider grid might have given others."""
    n = noisy.labels.shape[1]
    rows: list[Row] = []
    for (level, draw), strength, edge in zip(
        noisy.cells, fits.strengths[choice], fits.at_edge(choice), strict=True
    ):
        shared = {
            "protocol": "tuned",
            "condition": noisy.condition,
            "level": level,
            "noise_seed": draw,
            "n": n,
        }
        rows.append({**shared, "metric": "strength", "value": float(strength)})
        rows.append({**shared, "metric": "at_edge", "value": float(edge)})
    return rows


def _mean(truth: Tensor) -> float:
    return float(truth.double().mean())
