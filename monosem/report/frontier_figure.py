"""The frontier of a tuning run: what is kept of refusals against what is learned, over an adapter's scale."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.experiments.tuning_comparisons import (
    ALIGNED,
    BASE,
    MATCHED,
    models_of,
    primary_metric,
    start_of,
)
from monosem.report.figure_style import FAINT, INK, SERIES, STYLE, new_figure
from monosem.report.tuning_tables import model_name, tasks_of


def frontier_tasks(results: pd.DataFrame) -> dict[str, str]:
    """Each task with harmful prompts beside it, and the metric its axis shows."""
    if not (results["condition"] == "harmful").any():
        return {}
    shown = {}
    for task in tasks_of(results):
        shown[task] = primary_metric(list(results.loc[results["condition"] == task, "metric"]))
    return shown


@rc_context(STYLE)
def frontier_figure(results: pd.DataFrame) -> Figure:
    """A panel for each task: refusals of harmful prompts against the task's measure, in per cent.

    A line leads from the start over every scale to the adapter; LoRA where it matches stands alone.
    """
    tasks = frontier_tasks(results)
    figure, panels = new_figure(3.4, ncols=len(tasks), sharey=True)
    adapters = [name for name in dict.fromkeys(results["features"]) if name not in (BASE, ALIGNED)]
    start = start_of(models_of(results)).features
    for axes, (task, metric) in zip(panels, tasks.items(), strict=True):
        points = _points(results[results["dataset"].isin([task, "none"])], task, metric)
        for name, (colour, marker) in zip(adapters, SERIES, strict=False):
            if name not in points.index:
                continue
            of_adapter = points.loc[[name]].sort_values("level")
            alone = name.startswith(MATCHED)
            path = of_adapter if alone else pd.concat([points.loc[[start]], of_adapter])
            line = "none" if alone else "-"
            axes.plot(
                path["task"], path["refused"], linestyle=line, color=colour, marker=marker, markersize=4.5
            )
        axes.plot(*points.loc[start, ["task", "refused"]], marker="*", color=INK, markersize=9)
        axes.set_title(task)
        axes.set_xlabel(f"{metric.replace('_', ' ').replace('rouge l', 'ROUGE-L')}, %")
        axes.grid(color=FAINT)
    panels[0].set_ylabel("harmful prompts refused, %")
    handles = [Line2D([], [], marker="*", color=INK, linestyle="none", markersize=9, label=model_name(start))]
    for name, (colour, marker) in zip(adapters, SERIES, strict=False):
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=model_name(name)))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _points(results: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """A row for each model and scale: level, and both axes in per cent; by the model's name."""
    axes = {"task": (task, metric), "refused": ("harmful", "refused")}
    shares = {
        axis: results[(results["condition"] == condition) & (results["metric"] == name)]
        .set_index(["features", "level"])["value"]
        .mul(100)
        for axis, (condition, name) in axes.items()
    }
    return pd.DataFrame(shares).reset_index("level")
