"""Run a recipe from data to tables: plan its stages, make the missing ones, collect, compare, write."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from monosem.core.distributed import this_world
from monosem.core.errors import Paused
from monosem.core.progress import PAUSED, TimedWatch
from monosem.core.run_folder import RunFolder
from monosem.data.datasets import ImageDataset
from monosem.experiments.comparisons import Correctness, compare
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.questions import NOTICES, QUESTIONS
from monosem.experiments.recipe_data import load_data
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import said_once, write_table
from monosem.experiments.salient_features import write_salient
from monosem.experiments.stage_cache import StageCache
from monosem.experiments.works import Work, needed


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


class Keep(Protocol):
    """Takes readings worth keeping: "epoch" with the number of the pair, what it is of, and values."""

    def __call__(self, event: str, **values: Any) -> None:
        """Keep them."""


class Step(NamedTuple):
    """A piece of work of the plan, and whether its output is there."""

    work: Work
    is_there: bool


def forget(event: str, **values: Any) -> None:
    """Keep nothing."""


class RunWatch(TimedWatch):
    """Turns the progress of single stages into that of the whole run, and pauses it when time is up."""

    def __init__(
        self,
        stop_after: float | None = None,
        show: Callable[[Reading], None] = lambda reading: None,
        keep: Keep = forget,
    ):
        super().__init__(stop_after)
        self._show = show
        self.keep = [keep]
        """Who is handed the readings worth keeping."""
        self._pair = 0
        self._stage = ""
        self._total, self._cached, self._before, self._current = 1.0, 0.0, 0.0, 0.0
        self._started = self._stage_started = time.monotonic()

    @classmethod
    def of_one(
        cls,
        stage: str,
        expected: float,
        show: Callable[[Reading], None],
        stop_after: float | None = None,
    ) -> "RunWatch":
        """A watch over a single stage that is expected to take so many seconds."""
        watch = cls(stop_after, show)
        watch.plan(expected, expected)
        watch.begin(stage, 0, expected)
        return watch

    def plan(self, total: float, missing: float) -> None:
        """Expected seconds of the whole run, and of the part that is still to be made."""
        self._total, self._cached = max(total, 1e-9), total - missing
        self._started = time.monotonic()

    def begin(self, stage: str, pair: int, expected: float) -> None:
        """A stage of this pair that is expected to take `expected` seconds starts now."""
        self._before += self._current
        self._stage, self._pair, self._current = stage, pair, expected
        self._stage_started = time.monotonic()
        self.progress(0, 1)

    def stage_seconds(self) -> float:
        """How long the stage at work has taken so far."""
        return round(time.monotonic() - self._stage_started, 3)

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

    def record(self, event: str, **values: Any) -> None:
        """Hand readings of the pair at work to those who keep them."""
        for keep in self.keep:
            keep(event, pair=self._pair, **values)

    def notice(self, message: str) -> None:
        """Tell the user something that does not end the run."""
        self._show(Reading(self._stage, (self._cached + self._before) / self._total, notice=message))


class Experiment:
    """A recipe with its data loaded and its stages planned, each with its cost and whether it is there."""

    def __init__(self, request: Request, watch: RunWatch) -> None:
        recipe = request.recipe
        self.data = load_data(recipe)
        self.cache = StageCache(request.store, watch.notice)
        self.pairs = [
            EncoderPair(recipe, self.data, self.cache, watch, index) for index in range(recipe.n_encoders)
        ]
        for pair in self.pairs:
            for question in QUESTIONS:
                pair.works += question(pair)
            pair.works = needed(pair.works)
        self.plan = {
            pair.index: [Step(work, self.cache.has(work.stage)) for work in pair.works] for pair in self.pairs
        }
        # What stages of a kind took here before says more than a count of operations.
        names = {step.work.stage.name for step in self.steps()}
        self.paces = {name: self.cache.pace(name) for name in names}

    def steps(self) -> list[Step]:
        """All steps of all pairs."""
        return [step for steps in self.plan.values() for step in steps]

    def expected_seconds(self, work: Work) -> float:
        """What a piece of work is expected to take on this machine."""
        return work.cost.seconds * self.paces[work.stage.name]

    def notices(self) -> list[str]:
        """What a user should know beforehand: what the data or the noise lack, what a question is about."""
        first = self.pairs[0]
        of_questions = (notice for notices in NOTICES for notice in notices(first))
        return [*first.noisy_labels.notices(), *self.data.notices(), *of_questions]


def run_recipe(request: Request, watch: RunWatch) -> None:
    """Make every missing stage and write the run folder's manifest, results.csv and comparisons.csv.

    Under `torchrun` or `accelerate launch` all processes train and embed; the main one does the rest.

    Raises:
        InputError: the run folder holds another run, or the data is at fault.
        Paused: the time is up; the same request goes on where this one stopped.
    """
    started = time.monotonic()
    world = this_world()
    experiment = Experiment(request, watch)
    world.wait()  # all have seen the same stages before the first one is made
    if world.is_main:
        recipe = request.recipe
        folder = RunFolder.claim(request.out, recipe.model_dump(mode="json"), recipe.hash, request.command)
        watch.keep.append(folder.log)
        _tell_beforehand(experiment, watch)
    for pair in experiment.pairs:
        for step in experiment.plan[pair.index]:
            if not step.is_there:
                name = f"pair {pair.index + 1}/{len(experiment.pairs)} {step.work.stage.name}"
                watch.begin(name, pair.index, experiment.expected_seconds(step.work))
            pair.run(step.work)
            if not step.is_there:
                if world.is_main:
                    seconds = watch.stage_seconds()
                    folder.log("stage made", stage=step.work.stage.key, pair=pair.index, seconds=seconds)
                # After a step, not before: however short the time, something gets done.
                if world.agreed(watch.should_pause())[0]:
                    raise Paused(PAUSED)
        pair.release()
    if not world.is_main:
        return
    results = said_once(pd.concat([table for pair in experiment.pairs for table in pair.results()]))
    # Stages are found by content, whatever the data was called.
    results["dataset"] = experiment.data.train.name
    comparisons = compare(results, request.recipe.margin, _correctness(experiment.pairs))
    write_table(results, request.out / "results.csv")
    write_table(comparisons, request.out / "comparisons.csv")
    if request.recipe.salience is not None:
        write_salient(experiment.pairs, request.out)
    folder.log("tables complete", seconds=round(time.monotonic() - started, 1))
    # Complete is said by whoever writes the reports, when they are there too.
    folder.write_manifest(
        request.command,
        tables_complete=True,
        notices=experiment.notices(),
        processes=world.size,
        data=[_describe(dataset, of) for of, dataset in experiment.data.named()],
        # Finetuning alone embeds nothing.
        stages=[pair.stages.saved() for pair in experiment.pairs if recipe.asks_of_features],
        wall_seconds_total=round(time.monotonic() - started, 1),
        wall_seconds=_by_kind(experiment.cache.wall_seconds),
    )


def _tell_beforehand(experiment: Experiment, watch: RunWatch) -> None:
    """Tell the watch how much there is to do, and the user what there is to know."""
    seconds = [(experiment.expected_seconds(step.work), step.is_there) for step in experiment.steps()]
    watch.plan(sum(s for s, _ in seconds), sum(s for s, is_there in seconds if not is_there))
    for notice in experiment.notices():
        watch.notice(notice)


def dry_run_lines(request: Request) -> list[str]:
    """The stages of a run, which of them are there, and the time and disk the others are expected to take."""
    experiment = Experiment(request, RunWatch())
    steps = experiment.steps()
    lines = [
        f"{'cached' if is_there else f'{experiment.expected_seconds(work):.1f} s':>8}  {work.stage.key}"
        for work, is_there in steps
    ]
    lines += experiment.notices()
    missing = [step for step in steps if not step.is_there]
    minutes = sum(experiment.expected_seconds(step.work) for step in missing) / 60
    megabytes = sum(step.work.cost.megabytes for step in missing)
    lines.append(
        f"{len(steps)} stages, {len(steps) - len(missing)} cached; the others take about {minutes:.1f} min"
        f" and {megabytes:.0f} MB under {request.store}; results go to {request.out}"
    )
    return lines


def _correctness(pairs: list[EncoderPair]) -> Correctness:
    """Per-sample correctness of baselines and methods, stacked over encoders: [encoders, test samples]."""
    per_pair = [pair.correctness() for pair in pairs]
    return {key: np.stack([found[key] for found in per_pair]) for key in per_pair[0]}


def _describe(dataset: ImageDataset, split: str) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split": split,
        "samples": len(dataset),
        "classes": dataset.n_classes,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "licence": dataset.licence,
        "skipped": list(dataset.skipped),
    }


def _by_kind(wall_seconds: dict[str, float]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for key, seconds in wall_seconds.items():
        kind = key.rpartition("-")[0]
        totals[kind] = round(totals.get(kind, 0.0) + seconds, 1)
    return totals
