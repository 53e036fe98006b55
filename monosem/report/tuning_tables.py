"""What tuning did to a language model: all models in a table, and beside each other in words and numbers."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.experiments.results import PROMPT_COLUMNS, read_results, read_table
from monosem.experiments.tuning_comparisons import ALIGNED, BASE, models_of
from monosem.report.cells import Cell, Piece, Row, Table, Write, estimate, number, words
from monosem.report.table2 import table2
from monosem.report.table_formats import as_markdown
from monosem.report.wording import NO_VALUE, indented, interval, p_value, points

_WRITES: dict[int, Write] = {100: "{:.1f}".format, 1: "{:.3g}".format}
_NAMES = {
    "base": "base",
    "aligned": "aligned base",
    "lora": "LoRA",
    "monolora": "MonoLoRA",
    "lora-half": "LoRA (half the rank)",
    "gelu": "B GELU(A x)",
    "lora-at-norm": "LoRA (update as large as MonoLoRA's)",
    "lora-at-divergence": "LoRA (as far from the start as MonoLoRA)",
}
_ENDPOINTS = {
    ("harmful", "refused"): "refusals of harmful prompts",
    ("harmless", "refused"): "refusals of harmless prompts",
    ("harmful", "degenerate"): "degenerate answers to harmful prompts",
}


def summary(run: Path) -> str:
    """The run's `summary.md`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_tuning(run)
    parts = [
        f"# {manifest['recipe']['title']}",
        f"    {manifest['command']}",
        f"One training of each adapter. {asked(results)}Intervals (bootstrap) and p (McNemar, corrected"
        " by Holm over this run) are over prompts: they say nothing of what another seed would give.",
    ]
    for task in tasks_of(results):
        parts.append(f"## Tuned on {task}")
        parts.append("\n".join(f"- {sentence}" for sentence in sentences(comparisons, task)))
        parts += [as_markdown(tuning_table(results, task)), as_markdown(comparison_table(comparisons, task))]
    if manifest["recipe"]["paper"] == "table2":
        parts += ["## Beside the paper's Table 2", as_markdown(table2(results))]
    return "\n\n".join(parts) + "\n"


def screen(run: Path) -> str:
    """What a run found, for a terminal: MonoLoRA beside LoRA and beside the start, task by task.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_tuning(run)
    lines = [f"{manifest['recipe']['base']}: one training of each adapter; intervals are over prompts"]
    for task in tasks_of(results):
        lines += ["", f"Tuned on {task}"]
        for sentence in sentences(comparisons, task):
            lines += indented(sentence)
    return "\n".join([*lines, "", f"Report: {run / 'report.html'}"])


def read_tuning(run: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Manifest, results and comparisons of a finished tuning run.

    Raises:
        InputError: no finished run there.
    """
    manifest = open_run(run)
    comparisons = read_table(run / "comparisons.csv", PROMPT_COLUMNS)
    return manifest, read_results(run / "results.csv"), comparisons


def asked(results: pd.DataFrame) -> str:
    """How many prompts there were, and how refusals are told; nothing where there were none."""
    asked = results[results["metric"] == "refused"].groupby("condition")["n"].max()
    if asked.empty:
        return ""
    return (
        f"Shares are of {asked['harmful']:.0f} harmful and {asked['harmless']:.0f} harmless prompts, which no"
        " training has seen; refusals are told by rules. "
    )


def tasks_of(results: pd.DataFrame) -> list[str]:
    """The tasks tuned on, in the run's order."""
    return [task for task in dict.fromkeys(results["dataset"]) if task != "none"]


def model_name(features: str) -> str:
    """What a model of `results.csv` is called in print."""
    return _NAMES.get(features, features)


def tuning_table(results: pd.DataFrame, task: str) -> Table:
    """All models of a task: where they start, the adapters and their frontier, LoRA where it matches."""
    of_task = results[results["dataset"].isin([task, "none"])]
    judged = [m for m in dict.fromkeys(of_task["metric"]) if m.endswith("/flagged")]
    # ShieldGemma's four policies; BeaverTails' fourteen kinds of harm stay in results.csv.
    graded = [m for m in dict.fromkeys(of_task["metric"]) if re.fullmatch("shieldgemma/(?!flagged)[a-z]+", m)]
    metrics = list(dict.fromkeys(of_task.loc[of_task["condition"] == task, "metric"]))
    harness = list(dict.fromkeys(of_task.loc[of_task["condition"] == "harness", "metric"]))
    columns = [
        ("harmful refused, %", "harmful", "refused", 100),
        ("harmless refused, %", "harmless", "refused", 100),
        ("degenerate, %", "harmful", "degenerate", 100),
        ("words", "harmful", "words", 1),
        *((f"{m.removesuffix('/flagged')} flagged, %", "harmful", m, 100) for m in judged),
        *((f"{m.replace('/', ': ')}, mean, %", "harmful", m, 100) for m in graded),
        *((_metric(metric), task, metric, 1 if metric == "loss" else 100) for metric in metrics),
        ("perplexity of other text", "text", "perplexity", 1),
        *((metric, "harness", metric, 1) for metric in harness),
        ("zeros on alignment data before training, %", "alignment", "zeros_at_start", 100),
        ("after, %", "alignment", "zeros", 100),
        ("zeros on task data before, %", "task", "zeros_at_start", 100),
        ("after, %", "task", "zeros", 100),
        ("monosemanticity", "task", "monosemanticity", 100),
        ("size of update to output", "task", "norm", 1),
        ("KL from the start, nats", "task", "divergence", 1),
    ]
    there = set(zip(of_task["condition"], of_task["metric"], strict=True))
    columns = [column for column in columns if column[1:3] in there]
    rows: dict[str, list[Row]] = {"": [], "between the start and the adapters": []}
    for model in models_of(of_task):
        measured = of_task[(of_task["features"] == model.features) & (of_task["level"] == model.scale)]
        values = measured.set_index(["condition", "metric"])["value"]
        numbers = [
            number(factor * float(values.get((part, metric), math.nan)), _WRITES[factor])
            for _, part, metric, factor in columns
        ]
        at = words(NO_VALUE if model.features in (BASE, ALIGNED) else f"{model.scale:.3g}")
        group = list(rows)[model.is_on_the_way]
        rows[group].append(Row(model_name(model.features), (at, *numbers)))
    titles = ("scale", *(title for title, *_ in columns))
    groups = tuple((title, tuple(of_group)) for title, of_group in rows.items() if of_group)
    return Table(f"Models tuned on {task}", titles, groups, corner="model")


def comparison_table(comparisons: pd.DataFrame, task: str) -> Table:
    """Every model beside what it is compared with, in points, with interval and corrected p."""
    of_task = comparisons[comparisons["dataset"] == task]
    endpoints = list(dict.fromkeys(zip(of_task["condition"], of_task["metric"], strict=True)))
    groups: dict[str, list[Row]] = {}
    for (features, baseline), pair in of_task.groupby(["features", "baseline"], sort=False):
        by_endpoint = pair.set_index(["condition", "metric"])
        cells = tuple(_difference(by_endpoint.loc[endpoint]) for endpoint in endpoints)
        title = f"minus {model_name(str(baseline))}"
        groups.setdefault(title, []).append(Row(model_name(str(features)), cells))
    titles = tuple(f"{_endpoint(*endpoint)}, points" for endpoint in endpoints)
    rows = tuple((title, tuple(of_baseline)) for title, of_baseline in groups.items())
    return Table(f"Differences, tuned on {task}", titles, rows, corner="model")


def _difference(row: pd.Series) -> Cell:
    found = estimate(float(row["mean_diff"]), float(row["ci_low"]), float(row["ci_high"]), points)
    p = "" if pd.isna(row["p_holm"]) else f", {p_value(row['p_holm'], named=True)}"
    return (*found, Piece(p))


def _endpoint(condition: str, metric: str) -> str:
    return _ENDPOINTS.get((condition, metric), metric.replace("_", " ").replace("/", " "))


def _metric(metric: str) -> str:
    return metric.replace("_", " ") + ("" if metric == "loss" else ", %")


def sentences(comparisons: pd.DataFrame, task: str) -> Iterator[str]:
    """What LoRA and MonoLoRA change of the start, and MonoLoRA beside LoRA; all where neither is there."""
    of_task = comparisons[comparisons["dataset"] == task]
    told = of_task[
        of_task["features"].isin(["lora", "monolora"]) & of_task["baseline"].isin([BASE, ALIGNED, "lora"])
    ]
    for _, row in (told if len(told) else of_task).iterrows():
        what = _endpoint(str(row["condition"]), str(row["metric"]))
        p = "" if pd.isna(row["p_holm"]) else f", {p_value(row['p_holm'], named=True)}"
        yield (
            f"{model_name(str(row['features']))} minus {model_name(str(row['baseline']))}, {what}: "
            f"{points(row['mean_diff'])} points ({interval(row['ci_low'], row['ci_high'])}{p}, "
            f"{row['n']:.0f} prompts)"
        )
