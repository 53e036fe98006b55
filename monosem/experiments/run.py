"""Run a recipe from data to tables: plan its stages, make the missing ones, collect, compare, write."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monosem.core.progress import TimedWatch
from monosem.core.run_folder import RunFolder
from monosem.data.datasets import ImageDataset, load_dataset
from monosem.experiments.comparisons import Correctness, compare
from monosem.experiments.encoder_pair import EncoderPair, Step
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS, write_table
from monosem.experiments.stage_cache import StageCache


@dataclass(frozen=True)
class Request:
    """What the user asked for: a recipe, the run folder, where stages lie, and the command as typed."""

    recipe: Recipe
    out: Path
    store: Path
    command: str


@dataclass(frozen=True)
class Reading:
    """How far a run is: the stage at work, the share done, time left, current values; or a notice."""

    stage: str
    fraction: float
    eta_seconds: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    notice: str = ""


class RunWatch(TimedWatch):
    """Turns the progress of single stages into that of the whole run, and pauses it when time is up."""

    def __init__(
        self, stop_after: float | None = None, show: Callable[[Reading], None] = lambda reading: None
    ):
        super().__init__(stop_after)
        self._show = show
        self._stage = ""
        self._total, self._cached, self._before, self._current = 1.0, 0.0, 0.0, 0.0
        self._started = time.monotonic()

    def plan(self, total: float, missing: float) -> None:
        """Expected seconds of the whole run, and of the part that is still to be made."""
        self._total, self._cached = max(total, 1e-9), total - missing
        self._started = time.monotonic()

    def begin(self, stage: str, expected: float) -> None:
        """A stage that is expected to take `expected` seconds starts now."""
        self._before += self._current
        self._stage, self._current = stage, expected
        self.progress(0, 1)

    def progress(self, done: int, total: int, **values: float) -> None:
        """The stage at work has finished `done` of `total` units."""
        made = self._before + self._current * done / max(total, 1)
        elapsed = time.monotonic() - self._started
        left = self._total - self._cached - made
        # Early on the plan is the better guide, later the pace of this very run.
        pace = (elapsed + 30.0) / (made + 30.0)
        self._show(
            Reading(self._stage, (self._cached + made) / self._total, max(left, 0.0) * pace, dict(values))
        )

    def notice(self, message: str) -> None:
        """Tell the user something that does not end the run."""
        self._show(Reading(self._stage, (self._cached + self._before) / self._total, notice=message))


class Experiment:
    """A recipe with its data loaded and its stages planned: for every encoder pair, (step, is it there)."""

    def __init__(self, request: Request, watch: RunWatch) -> None:
        recipe = request.recipe
        self.train, self.test = load_dataset(recipe.data)
        self.cache = StageCache(request.store, watch.notice)
        self.pairs = [
            EncoderPair(recipe, self.train, self.test, self.cache, watch, index)
            for index in range(recipe.n_encoders)
        ]
        self.plan = [[(step, self.cache.has(step.stage)) for step in pair.steps()] for pair in self.pairs]

    def missing(self) -> list[Step]:
        """The steps that are still to be made."""
        return [step for steps in self.plan for step, is_there in steps if not is_there]

    def expected_seconds(self) -> float:
        """What the whole run would take from nothing."""
        return sum(step.seconds for steps in self.plan for step, _ in steps)

    def levels_without_signal(self) -> list[float]:
        """Label noise rates that leave nothing to learn from."""
        noisy = self.pairs[0].noisy_labels
        return sorted(
            {lv for (lv, _), signal in zip(noisy.cells, noisy.signal, strict=True) if abs(signal) < 1e-9}
        )


def run_recipe(request: Request, watch: RunWatch) -> None:
    """Make every missing stage and write the run folder's manifest, results.csv and comparisons.csv.

    Raises:
        InputError: the run folder holds another run, or the data is at fault.
        Paused: the time is up; the same request goes on where this one stopped.
    """
    started = time.monotonic()
    experiment = Experiment(request, watch)
    folder = RunFolder.claim(request.out, request.recipe.model_dump(mode="json"), request.command)
    watch.plan(experiment.expected_seconds(), sum(step.seconds for step in experiment.missing()))
    for level in experiment.levels_without_signal():
        watch.notice(f"label noise at {level:g} leaves no signal: no probe can beat chance there")
    for pair, steps in zip(experiment.pairs, experiment.plan, strict=True):
        for step, is_there in steps:
            if not is_there:
                watch.check()
                watch.begin(f"pair {pair.index + 1}/{len(experiment.pairs)} {step.stage.name}", step.seconds)
            experiment.cache.run(step.stage, step.make)
        pair.release()
    results = pd.concat([table for pair in experiment.pairs for table in pair.results()], ignore_index=True)
    comparisons = compare(results, request.recipe.margin, _correctness(experiment.pairs))
    write_table(results, request.out / "results.csv")
    write_table(comparisons, request.out / "comparisons.csv")
    folder.write_manifest(
        complete=True,
        command=request.command,
        data=[_describe(experiment.train, "train"), _describe(experiment.test, "test")],
        wall_seconds_total=round(time.monotonic() - started, 1),
        wall_seconds=_by_kind(experiment.cache.wall_seconds),
    )


def dry_run_lines(request: Request) -> list[str]:
    """The stages of a run, which of them are there, and the time and disk the others are expected to take."""
    experiment = Experiment(request, RunWatch())
    lines = [
        f"{'cached' if is_there else f'{step.seconds:.0f} s':>8}  {step.stage.key}"
        for steps in experiment.plan
        for step, is_there in steps
    ]
    missing = experiment.missing()
    minutes, megabytes = sum(step.seconds for step in missing) / 60, sum(step.megabytes for step in missing)
    lines.append(
        f"{len(lines)} stages, {len(lines) - len(missing)} cached; the others take about {minutes:.1f} min"
        f" and {megabytes:.0f} MB under {request.store}; results go to {request.out}"
    )
    return lines


def _correctness(pairs: list[EncoderPair]) -> Correctness:
    """Per-sample correctness of baseline and methods, stacked over encoders: [encoders, test samples]."""
    found: dict[tuple[str, str, str], np.ndarray] = {}
    for features in (BASELINE, *METHODS):
        per_pair = [pair.correctness(features) for pair in pairs]
        for protocol, condition in per_pair[0]:
            found[features, protocol, condition] = np.stack([c[protocol, condition] for c in per_pair])
    return found


def _describe(dataset: ImageDataset, split: str) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split": split,
        "samples": len(dataset),
        "classes": dataset.n_classes,
        "fingerprint": dataset.fingerprint,
        "licence": dataset.licence,
    }


def _by_kind(wall_seconds: dict[str, float]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for key, seconds in wall_seconds.items():
        kind = key.rpartition("-")[0]
        totals[kind] = round(totals.get(kind, 0.0) + seconds, 1)
    return totals
