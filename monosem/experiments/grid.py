"""One feature set against every corruption and noise draw, under each protocol: rows of accuracy and more.

Cell 0 is always clean; the primary endpoint is the mean over the other cells.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.data.codes import Codes
from monosem.data.datasets import ImageDataset
from monosem.data.noise_source import NoiseSource, noise_source
from monosem.experiments.corrupted_tests import CorruptedTest, noise_seed
from monosem.experiments.recipe_parts import LabelNoiseGrid
from monosem.experiments.results import COMMON_CORRUPTIONS, ONE_CORRUPTION, makes_claims
from monosem.measures.blocks import Rows
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

    def notices(self) -> list[str]:
        """Which levels leave nothing to learn from."""
        hopeless = {
            level for (level, _), signal in zip(self.cells, self.signal, strict=True) if signal < 1e-9
        }
        return [
            f"label noise at {level:g} leaves no signal: nothing beats chance there"
            for level in sorted(hopeless)
        ]


@dataclass(frozen=True)
class ProbedFeatures:
    """Features of the test images: `clean` [M, D] with labels [M], and every corrupted version of them."""

    labels: Tensor
    clean: Rows
    corrupted: Sequence[CorruptedTest] = ()


@dataclass(frozen=True)
class Outcome:
    """Rows of results, and per-sample correctness of the primary endpoint by (protocol, condition): [M]."""

    rows: list[Row]
    correctness: dict[tuple[str, str], Tensor]


def noise_cells(levels: Iterable[float], draws: int) -> tuple[Cell, ...]:
    """Every level with every noise draw."""
    return tuple((level, draw) for level in levels for draw in range(draws))


class Labelled(Protocol):
    """Samples as label noise sees them: images, or what a run saved of them."""

    @property
    def labels(self) -> Tensor:
        """True ones, int64 [N]."""

    @property
    def ids(self) -> Tensor:
        """Of the samples, int64 [N]."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the K classes."""


def label_noise_source(train: Labelled, grid: LabelNoiseGrid | None) -> NoiseSource:
    """The noise of a grid for the training labels; symmetric where there is none, to be asked for rate 0.

    Raises:
        InputError: a file of noise does not fit the data.
    """
    grid = grid or LabelNoiseGrid()
    file = None if grid.file is None else Path(grid.file)
    return noise_source(
        grid.kind, train.labels, train.class_names, ids=train.ids, file=file, column=grid.column
    )


def corrupt(train: ImageDataset, grid: LabelNoiseGrid | None, draws: int, seed: int) -> LabelCells:
    """Every noisy version of the training labels that `grid` asks for, one for all feature sets.

    Without a grid there are the clean labels alone.

    Raises:
        InputError: a file of noise does not fit the data.
    """
    condition, levels = ("", ()) if grid is None else (grid.condition, grid.levels)
    return label_cells(condition, label_noise_source(train, grid), levels, draws, seed)


def label_cells(
    condition: str, source: NoiseSource, levels: Iterable[float], draws: int, seed: int
) -> LabelCells:
    """Clean labels and those of every level and draw of one source of noise."""
    cells = ((0.0, 0), *noise_cells(levels, draws))
    noisy = [source.corrupt(level, noise_seed(seed, draw)) for level, draw in cells]
    return LabelCells(
        condition=condition,
        cells=cells,
        labels=torch.stack([one.labels for one in noisy]),
        flipped=torch.stack([one.flipped for one in noisy]),
        signal=tuple(source.signal(level) for level, _ in cells),
        n_classes=len(source.full_matrix),
    )


def published_protocol(
    train: Tensor | Codes,
    noisy: LabelCells,
    test: ProbedFeatures,
    settings: ProbeSettings,
    seed: int,
    watch: Watch = SILENT,
    checkpoint: Path | None = None,
    transitions: Tensor | None = None,
    name: str = "published",
) -> Outcome:
    """The paper's protocol: gradient-trained probes with fixed settings, all cells as one batched problem.

    With another loss it goes by another `name`, and may need `transitions`; see `train_probes`.
    """
    probes = train_probes(
        train, noisy.labels, noisy.n_classes, settings, seed, watch, checkpoint, transitions
    )
    on_corrupted = [probes[:1].predict(version.features())[0] for version in test.corrupted]
    return outcome(name, noisy, test, probes.predict(train), probes.predict(test.clean), on_corrupted)


def tuned_protocol(
    train: Rows,
    noisy: LabelCells,
    test: ProbedFeatures,
    settings: RidgeSettings,
    seed: int,
    fixed: Sequence[float] = (),
) -> Outcome:
    """Ridge probes, the strength chosen twice for every cell: *tuned* and *oracle*.

    Tuned takes the least leave-one-out error on the noisy labels. The oracle takes the best accuracy on the
    very test samples it is scored on: an upper bound nobody can have. Beside them, on clean test images
    alone, probes of the strengths `fixed`.
    """
    fits = RidgePath.fit(train).solve(noisy.labels, noisy.n_classes, settings, seed)
    clean = fits[:1]
    tuned, oracle = fits.tuned(), fits.oracle(test.clean, test.labels)
    tuned_on_clean = clean.probes(clean.tuned())
    on_corrupted: dict[str, list[Tensor]] = {"tuned": [], "oracle": []}
    for version in test.corrupted:
        features = version.features()
        best = clean.probes(clean.oracle(features, version.labels))
        for protocol, probe in (("tuned", tuned_on_clean), ("oracle", best)):
            on_corrupted[protocol].append(probe.predict(features)[0])
    found = []
    for protocol, choice in (("tuned", tuned), ("oracle", oracle)):
        probes = fits.probes(choice)
        fitted, predicted = probes.predict(train), probes.predict(test.clean)
        found.append(outcome(protocol, noisy, test, fitted, predicted, on_corrupted[protocol]))
    of_choice = {"strength": fits.strengths[tuned], "at_edge": fits.at_edge(tuned)}
    rows = [row for one in found for row in one.rows] + readings("tuned", noisy, of_choice)
    rows += _fixed_rows(fits, noisy, test, fixed)
    return Outcome(rows, {**found[0].correctness, **found[1].correctness})


def _fixed_rows(
    fits: RidgeFits, noisy: LabelCells, test: ProbedFeatures, strengths: Sequence[float]
) -> Iterator[Row]:
    """Accuracy of ridge probes of fixed strengths, each the nearest of the grid: protocols `ridge-1e-04`."""
    for strength in strengths:
        nearest = (fits.strengths.log10() - math.log10(strength)).abs().argmin()
        predicted = fits.probes(nearest.expand(len(noisy.labels))).predict(test.clean)
        name = f"ridge-{float(fits.strengths[nearest]):.0e}"
        yield from outcome(name, noisy, ProbedFeatures(test.labels, test.clean), None, predicted).rows


def measure(train: Rows, train_labels: Tensor, test: ProbedFeatures, n_classes: int) -> Outcome:
    """What `geometry` says of a feature set, and its kNN accuracy."""
    accuracy = knn_accuracy(train, train_labels, test.clean, test.labels, n_classes)
    return Outcome([*geometry(test, n_classes), *_measured({"knn_accuracy": accuracy}, test)], {})


def geometry(test: ProbedFeatures, n_classes: int) -> list[Row]:
    """Monosemanticity, sparsity and geometry of a feature set, on the test images."""
    values = {"dimensions": float(test.clean.shape[1])}
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
    }
    return _measured(values, test)


def _measured(values: Mapping[str, float], test: ProbedFeatures) -> list[Row]:
    shared = {
        "protocol": "measured",
        "condition": "clean",
        "level": 0.0,
        "noise_seed": 0,
        "n": len(test.labels),
    }
    return [{**shared, "metric": name, "value": value} for name, value in values.items()]


def outcome(
    protocol: str,
    noisy: LabelCells,
    test: ProbedFeatures,
    fits: Tensor | None,
    predictions: Tensor,
    on_corrupted: Sequence[Tensor] = (),
) -> Outcome:
    """Score training fits [P, N], clean test predictions [P, M] and those on corrupted tests, [M] each.

    Without fits there is accuracy alone.
    """
    correct = predictions == test.labels
    rows: list[Row] = []
    correctness = {}
    if len(noisy.cells) > 1:
        rows += _noisy_label_rows(protocol, noisy, fits, correct)
        correctness[protocol, noisy.condition] = correct[1:].float().mean(dim=0)
    right = [guess == version.labels for guess, version in zip(on_corrupted, test.corrupted, strict=True)]
    shared = {"protocol": protocol, "metric": "accuracy"}
    for condition in dict.fromkeys(version.condition for version in test.corrupted):
        of = [index for index, version in enumerate(test.corrupted) if version.condition == condition]
        # Level 0 is scored on the classes that the corrupted version has.
        has = torch.isin(test.labels, test.corrupted[of[0]].labels)
        for level, draw, scored in (
            (0.0, 0, correct[0][has]),
            *((test.corrupted[i].level, test.corrupted[i].draw, right[i]) for i in of),
        ):
            place = {"condition": condition, "level": level, "noise_seed": draw}
            rows.append({**shared, **place, "value": _mean(scored), "n": len(scored)})
        if makes_claims(condition):
            correctness[protocol, condition] = torch.stack([right[i] for i in of]).float().mean(dim=0)
    common = [i for i, v in enumerate(test.corrupted) if v.condition.startswith(ONE_CORRUPTION)]
    if common:
        rows += _averaged_rows(rows)
        correctness[protocol, COMMON_CORRUPTIONS] = (
            torch.stack([right[i] for i in common]).float().mean(dim=0)
        )
    return Outcome(rows, correctness)


def readings(protocol: str, noisy: LabelCells, values: Mapping[str, Tensor]) -> list[Row]:
    """Readings of the classifiers of all cells by name, [P] each: chosen strengths, say."""
    shared = {"protocol": protocol, "condition": noisy.condition or "clean", "n": noisy.labels.shape[1]}
    return [
        {**shared, "level": level, "noise_seed": draw, "metric": name, "value": float(of_cells[cell])}
        for cell, (level, draw) in enumerate(noisy.cells)
        for name, of_cells in values.items()
    ]


def _noisy_label_rows(
    protocol: str, noisy: LabelCells, fits: Tensor | None, correct: Tensor
) -> Iterator[Row]:
    n = correct.shape[1]
    for cell, (level, draw) in enumerate(noisy.cells):
        shared = {"protocol": protocol, "condition": noisy.condition, "level": level, "noise_seed": draw}
        yield {**shared, "metric": "accuracy", "value": _mean(correct[cell]), "n": n}
        flipped = noisy.flipped[cell]
        if fits is not None and flipped.any():
            memorised = _mean(fits[cell][flipped] == noisy.labels[cell][flipped])
            yield {**shared, "metric": "memorised", "value": memorised, "n": int(flipped.sum())}
            yield {**shared, "metric": "label_signal", "value": noisy.signal[cell], "n": len(flipped)}
            yield {**shared, "metric": "realised_rate", "value": _mean(flipped), "n": len(flipped)}


def _averaged_rows(rows: Iterable[Row]) -> list[Row]:
    """The mean over the common corruptions at each severity."""
    found: dict[Cell, list[Row]] = {}
    for row in rows:
        if row["condition"].startswith(ONE_CORRUPTION):
            found.setdefault((row["level"], row["noise_seed"]), []).append(row)
    return [
        {**at[0], "condition": COMMON_CORRUPTIONS, "value": sum(row["value"] for row in at) / len(at)}
        for at in found.values()
    ]


def _mean(truth: Tensor) -> float:
    return float(truth.double().mean())
