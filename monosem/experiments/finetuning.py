"""Finetuning: cross-entropy (CE) against its non-negative form (NCE), with few labels or with wrong ones.

An arm is one way to finetune. All arms of a pair start from the same encoder and see the same images with the
same labels in the same order (3.2, Figure 3, A.2).
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.core.artifacts import (
    atomic_folder,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
)
from monosem.core.errors import InputError
from monosem.core.progress import Portion, Watch
from monosem.data.subsets import few_shot_indices
from monosem.encoders.backbones import Encoder, build_encoder
from monosem.experiments.corrupted_tests import noise_seed
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.grid import LabelCells, Outcome, Row, corrupt, noise_cells
from monosem.experiments.pair_plan import (
    device_facts,
    expected_cost,
    forward_flops,
    fresh_encoder_facts,
    label_noise_facts,
    settings_facts,
)
from monosem.experiments.recipe_parts import FinetuneGrid, Start
from monosem.experiments.results import CE, FEW_SHOT, FINETUNED, methods_of, reference_level
from monosem.experiments.stage_cache import Stage
from monosem.experiments.works import Work
from monosem.robust.classifier import check_difference, moving_parts
from monosem.robust.finetune import Finetuned, finetune
from monosem.robust.finetune_settings import FinetuneSettings
from monosem.robust.labelled_images import split_rows


@dataclass(frozen=True)
class Labelled:
    """What one finetuning learns from: rows int64 [N] of the training images, with labels int64 [N]."""

    level: float
    draw: int
    rows: np.ndarray
    labels: Tensor
    signal: float = 1.0


@dataclass(frozen=True)
class Condition:
    """All that a condition of results learns from, one after the other, and the settings it is decided by."""

    name: str
    parts: list[Labelled]
    facts: dict[str, Any]


def works(pair: EncoderPair) -> Iterator[Work]:
    """Every arm under every condition, with all its levels and draws.

    Raises:
        InputError: a fraction leaves a class empty or nothing to hold out, NCE is CE, or a file of noise does
            not fit the data.
    """
    grid, train, test = pair.recipe.finetune, pair.data.train, pair.data.test
    if grid is None:
        return
    arms, fresh = grid.settings_of_arms(), _fresh_encoder(pair)
    for settings in arms.values():
        check_difference(fresh, settings)
    facts = {
        "images": [train.fingerprint, test.fingerprint],
        "statistics": [train.mean, train.std],
        "classes": train.n_classes,
        "seed": pair.seed,
        **device_facts(),
    }
    if grid.start == "scratch":
        facts |= fresh_encoder_facts(pair.recipe.pretrain.encoder)
    inputs = [] if grid.start == "scratch" else [pair.stages.pretrained[grid.start]]
    flops = forward_flops(pair.recipe.pretrain.encoder, train.images.shape[1:])
    for condition in _conditions(pair, grid):
        for arm, settings in arms.items():
            fewest = condition.parts[0].labels
            split_rows(fewest, settings.early_stopping, pair.seed)  # refused here if nothing is held out
            of_arm = {"features": arm, "finetune": settings_facts(settings), **facts, **condition.facts}
            make = Arm(pair, arm, settings, grid.start, condition).make
            cost = expected_cost(flops * _passes(settings, condition.parts, len(test)))
            yield Work(Stage("finetune", of_arm, inputs), make, cost, has_results=True)


def notices(pair: EncoderPair) -> Iterator[str]:
    """Which parts of the network move, and which levels of noise leave nothing to learn from."""
    grid = pair.recipe.finetune
    if grid is None:
        return
    fresh, arms = _fresh_encoder(pair), dict[str, list[str]]()
    for arm, settings in grid.settings_of_arms().items():
        arms.setdefault(moving_parts(settings, fresh, pair.data.train.n_classes), []).append(arm)
    for parts, names in arms.items():
        yield f"finetuning {', '.join(names)}: {parts}"
    if grid.label_noise is not None:
        yield from _noisy_labels(pair, grid).notices()


def _conditions(pair: EncoderPair, grid: FinetuneGrid) -> Iterator[Condition]:
    """Few labels and wrong labels, as far as they are asked for."""
    labels, draws = pair.data.train.labels, {"draws": pair.recipe.n_noise}
    if grid.fractions is not None:
        parts = []
        for fraction, draw in (*noise_cells(grid.fractions[:-1], pair.recipe.n_noise), (1.0, 0)):
            try:
                rows = few_shot_indices(labels.numpy(), fraction, noise_seed(pair.seed, draw))
            except InputError as error:
                raise InputError(f"finetune.fractions: {error}") from None
            parts.append(Labelled(fraction, draw, rows, labels[torch.from_numpy(rows)]))
        yield Condition(FEW_SHOT, parts, {"fractions": grid.fractions, **draws})
    if grid.label_noise is not None:
        noisy, rows = _noisy_labels(pair, grid), np.arange(len(labels))
        parts = [
            Labelled(level, draw, rows, given, signal)
            for (level, draw), given, signal in zip(noisy.cells, noisy.labels, noisy.signal, strict=True)
        ]
        yield Condition(noisy.condition, parts, {"label_noise": label_noise_facts(grid.label_noise), **draws})


def _noisy_labels(pair: EncoderPair, grid: FinetuneGrid) -> LabelCells:
    return corrupt(pair.data.train, grid.label_noise, pair.recipe.n_noise, pair.seed)


def _fresh_encoder(pair: EncoderPair) -> Encoder:
    return build_encoder(pair.recipe.pretrain.encoder, pair.data.train.images.shape[1], pair.seed)


def _passes(settings: FinetuneSettings, parts: list[Labelled], n_test: int) -> float:
    """Images through the encoder: forward is one, and backward two more."""
    n_train = sum(len(part.rows) for part in parts)
    measured = settings.epochs / (settings.measure_every or max(1, settings.epochs // 10))
    return 3.0 * n_train * settings.epochs + (n_train + n_test * len(parts)) * measured


@dataclass(frozen=True)
class Arm:
    """One arm under one condition; `make` is that of its `Work`."""

    pair: EncoderPair
    name: str
    settings: FinetuneSettings
    start: Start
    condition: Condition

    def make(self, output: Path, scratch: Path) -> None:
        """One finetuning after the other; those that are finished lie in `scratch` until all are."""
        finetuned, from_scratch = FINETUNED
        if self.start == "scratch":
            protocol, encoder = from_scratch, _fresh_encoder(self.pair)
        else:
            protocol, encoder = finetuned, self.pair.encoder(self.start)
        condition = self.condition
        rows: list[Row] = []
        rights: list[Tensor] = []
        done, total = 0, sum(len(part.rows) for part in condition.parts)
        for part in condition.parts:
            place = scratch / f"{part.level:g}-{part.draw}"
            if not (place / "finished").exists():
                watch = Portion(self.pair.watch, done, len(part.rows), total)
                found = self._finetune(encoder, part, place / "training", watch)
                with atomic_folder(place / "finished", guarded=False) as draft:
                    write_json_atomic(draft / "readings.json", self._readings(found, part))
                    right = found.predictions == self.pair.data.test.labels
                    save_tensors(draft / "right.safetensors", {"right": right})
            shutil.rmtree(place / "training", ignore_errors=True)
            verify_folder(place / "finished")
            where = {"condition": condition.name, "level": part.level, "noise_seed": part.draw}
            for reading in read_json(place / "finished" / "readings.json"):
                rows.append({"protocol": protocol, **where, **reading})
            if part.level != reference_level(condition.name):
                rights.append(load_tensors(place / "finished" / "right.safetensors")["right"])
            done += len(part.rows)
        correctness = {}
        if self.name == CE or self.name in methods_of(protocol):
            correctness[protocol, condition.name] = torch.stack(rights).float().mean(dim=0)
        self.pair.write_results(output, self.name, Outcome(rows, correctness))

    def _finetune(self, encoder: Encoder, part: Labelled, checkpoint: Path, watch: Watch) -> Finetuned:
        data = self.pair.data
        return finetune(
            encoder,
            data.train.take(part.rows),
            data.test,
            self.settings,
            self.pair.seed,
            labels=part.labels,
            checkpoint=checkpoint,
            device=self.pair.world.device,
            watch=watch,
        )

    def _readings(self, found: Finetuned, part: Labelled) -> list[Row]:
        """What was measured of one finetuning, at its end and along its epochs."""
        fitted, _ = split_rows(part.labels, self.settings.early_stopping, self.pair.seed)
        wrong = part.labels != self.pair.data.train.labels[torch.from_numpy(part.rows)]
        over = {"test_accuracy": len(found.predictions), "train_accuracy": len(fitted)}
        over["memorised"] = int(wrong[fitted].sum())
        rows = [
            {"metric": _METRICS[name], "value": value, "n": over[name]}
            for name, value in found.readings.items()
        ]
        if wrong.any():
            for metric, value in (("label_signal", part.signal), ("realised_rate", wrong.double().mean())):
                rows.append({"metric": metric, "value": float(value), "n": len(wrong)})
        for epoch in found.history:
            for name in ("test_accuracy", "train_accuracy"):
                if name in epoch:
                    metric = f"{_METRICS[name]}/epoch {int(epoch['epoch']):03d}"
                    rows.append({"metric": metric, "value": epoch[name], "n": over[name]})
        return rows


_METRICS = {"test_accuracy": "accuracy", "train_accuracy": "train_accuracy", "memorised": "memorised"}
"""What results call the readings of a classifier."""
