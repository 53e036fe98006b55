"""Run a tuning recipe: make its missing stages, collect their measurements in tables."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.artifacts import write_json_atomic, write_text_atomic
from monosem.core.progress import SILENT
from monosem.core.run_folder import RunFolder
from monosem.experiments.make_stages import make_stages, planned_lines
from monosem.experiments.results import RESULT_COLUMNS, write_table
from monosem.experiments.run import RunWatch
from monosem.experiments.stage_cache import StageCache
from monosem.experiments.tuning import Tuning
from monosem.experiments.tuning_comparisons import compare_prompts
from monosem.experiments.tuning_recipe import TuningRecipe
from monosem.experiments.works import Work

_EXAMPLES = 20


def run_tuning(recipe: TuningRecipe, out: Path, store: Path, command: str, watch: RunWatch) -> None:
    """Make every missing stage and write the run folder: manifest, tables, answers, adapters.

    Raises:
        InputError: the run folder holds another run, texts or base are at fault, or tuning refusals in did
            not align the base; what was made until then is kept.
        Paused: the time is up; the same request goes on where this one stopped.
    """
    started = time.monotonic()
    cache = StageCache(store, watch.notice)
    tuning = Tuning(recipe, cache, watch)
    folder = RunFolder.claim(out, recipe.model_dump(mode="json"), recipe.hash, command)

    def check(work: Work) -> None:
        if work.stage is tuning.gate:
            tuning.check_aligned()

    make_stages(tuning.works, cache, folder, watch, check)
    measured, prompts = results(tuning), per_prompt(tuning)
    write_table(measured, out / "results.csv")
    write_table(prompts, out / "prompts.csv")
    write_table(compare_prompts(measured, prompts, recipe.seed), out / "comparisons.csv")
    write_json_atomic(out / "answers.json", _examples(tuning))
    write_text_atomic(out / "templates.txt", tuning.templates())
    for subject, _ in tuning.subjects:
        if subject.tuned is not None and subject.features == subject.adapter:
            place = out / "adapters" / f"{subject.task}-{subject.adapter}"
            shutil.copytree(cache.folder(subject.tuned) / "adapter", place, dirs_exist_ok=True)
    folder.log("tables complete", seconds=round(time.monotonic() - started, 1))
    folder.write_manifest(
        command,
        tables_complete=True,
        texts=tuning.texts.fingerprint,
        training_tokens=tuning.training_tokens(),
        readings={model.label: tuning.readings(stage) for model, stage in tuning.measured()},
        wall_seconds_total=round(time.monotonic() - started, 1),
        wall_seconds=dict(cache.wall_seconds),
    )


def dry_run_lines(recipe: TuningRecipe, out: Path, store: Path) -> list[str]:
    """The stages of a run, which of them are there, and the time the others are expected to take."""
    cache = StageCache(store)
    on = "two CPU cores with a model of 135 million parameters"
    return planned_lines(Tuning(recipe, cache, SILENT).works, cache, on, out)


def results(tuning: Tuning) -> pd.DataFrame:
    """Every measurement in the tidy table: `dataset` is the task tuned on, `level` the adapter's scale.

    Conditions: a task's name, harmful, harmless, text (over the prompts that have a value), and of what was
    read inside an adapter, task and alignment.
    """
    return pd.DataFrame(_rows(tuning)).reindex(columns=list(RESULT_COLUMNS))


def _rows(tuning: Tuning) -> Iterator[dict[str, Any]]:
    for model, stage in tuning.measured():
        readings = tuning.readings(stage)
        readings.pop("scale")
        facts = {
            "dataset": model.task,
            "encoder": tuning.recipe.base,
            "features": model.features,
            "protocol": "tuned",
            "level": model.scale,
            "encoder_seed": tuning.recipe.seed,
            "noise_seed": 0,
        }
        values = tuning.values(stage)
        if "text/loss" in values:
            losses, tokens = values.pop("text/loss"), values.pop("text/tokens")
            perplexity = float((losses.sum() / tokens.sum()).exp())
            yield {
                **facts,
                "condition": "text",
                "metric": "perplexity",
                "value": perplexity,
                "n": len(losses),
            }
        for name, column in values.items():
            condition, _, metric = name.partition("/")
            judged = column[~column.isnan()]
            cell = {**facts, "condition": condition, "n": len(judged)}
            yield {**cell, "metric": metric, "value": float(judged.mean()) if len(judged) else None}
            if len(judged) < len(column):
                yield {**cell, "metric": f"{metric}-missing", "value": len(column) - len(judged)}
        for name, value in readings.items():
            metric, _, condition = name.partition("/")
            yield {**facts, "condition": condition, "metric": metric, "value": value}


def per_prompt(tuning: Tuning) -> pd.DataFrame:
    """Every value prompt by prompt: a row for each prompt of a condition and metric, a column for each model.

    Empty where a model was not asked, or a judge failed.
    """
    columns = {}
    for model, stage in tuning.measured():
        parts = {
            tuple(name.split("/", 1)): pd.Series(values.double().numpy())
            for name, values in tuning.values(stage).items()
        }
        columns[model.label] = pd.concat(parts, names=["condition", "metric", "prompt"])
    return pd.DataFrame(columns).reset_index()


def _examples(tuning: Tuning) -> dict[str, Any]:
    """Prompts with every model's answers, for people to read."""
    asked = {
        "harmful": tuning.texts.harmful,
        "harmless": tuning.texts.harmless,
        **{name: [pair.instruction for pair in task.test] for name, task in tuning.texts.tasks.items()},
    }
    return {
        kind: {
            "prompts": prompts[:_EXAMPLES],
            "answers": {
                model.label: answers[kind][:_EXAMPLES]
                for model, stage in tuning.measured()
                if not model.is_on_the_way and kind in (answers := tuning.answers(stage))
            },
        }
        for kind, prompts in asked.items()
    }
