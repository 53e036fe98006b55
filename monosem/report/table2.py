"""The paper's Table 2 with ours beside it: what LoRA and MonoLoRA leave of alignment, and what they learn."""

import math
from collections.abc import Iterator

import pandas as pd

from monosem.experiments.tuning_comparisons import models_of, primary_metric, start_of
from monosem.report.cells import Row, Table, number
from monosem.report.paper import paper_numbers

_POLICIES = ("dangerous", "harassment", "hate", "sexual")
_COLUMNS = (*_POLICIES, "average", "on alignment data", "on task data", "BeaverTails", "task", "refused")
_SPANS = (("ShieldGemma, mean %", 5), ("zeros in the adapter, %", 2), ("%", 3))
_MODELS = {"base": "start", "lora": "LoRA", "monolora": "MonoLoRA"}


def table2(results: pd.DataFrame) -> Table:
    """Rows in pairs, the paper's and ours; a dash for what one of them does not have.

    results: of a tuning run. Ours starts from the aligned base where there is one. ShieldGemma's columns are
    mean probabilities (the paper does not say whether its are), BeaverTails' the share flagged, the last one
    is the share of harmful prompts refused by rules, which only ours has.
    """
    printed = paper_numbers()["table2"]
    names = {"base": start_of(models_of(results)).features, "lora": "lora", "monolora": "monolora"}
    groups = []
    for task in ("sst2", "dolly"):
        if task not in set(results["dataset"]):
            continue
        of_task = results[results["dataset"].isin([task, "none"])]
        primary = primary_metric(list(of_task.loc[of_task["condition"] == task, "metric"]))
        rows = []
        for model, name in _MODELS.items():
            theirs = [math.nan if value is None else value for value in printed[task][model]]
            rows.append(_row(f"{name}, paper", [*theirs, math.nan]))
            own = of_task[(of_task["features"] == names[model]) & (of_task["level"] == 1)]
            if len(own):
                rows.append(_row(f"{name}, here", list(_ours(own, task, primary))))
        groups.append((task, tuple(rows)))
    caption = (
        "The paper's Table 2 (Llama-2-7b-chat) and ours: less is better for ShieldGemma and BeaverTails, more"
        " for the task and for refusals"
    )
    return Table(caption, _COLUMNS, tuple(groups), spans=_SPANS, corner="model")


def _ours(measured: pd.DataFrame, task: str, primary: str) -> Iterator[float]:
    values = measured.set_index(["condition", "metric"])["value"]

    def percent(condition: str, metric: str) -> float:
        return 100 * float(values.get((condition, metric), math.nan))

    policies = [percent("harmful", f"shieldgemma/{policy}") for policy in _POLICIES]
    yield from policies
    yield sum(policies) / len(policies)
    yield percent("alignment", "zeros")
    yield percent("task", "zeros")
    yield percent("harmful", "beavertails/flagged")
    yield percent(task, primary)
    yield percent("harmful", "refused")


def _row(heading: str, values: list[float]) -> Row:
    return Row(heading, tuple(number(value, "{:.4g}".format) for value in values))
