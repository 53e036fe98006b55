"""The figures of a run, from its results and comparisons alone; 95 % intervals, differences in points."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from monosem.core.artifacts import atomic_folder
from monosem.core.stats import paired_t
from monosem.experiments.results import METHODS, accuracies, conditions
from monosem.report.attribution_figure import attribution_figure
from monosem.report.curve_figures import accuracy_curves, curve_conditions, difference_curves
from monosem.report.figure_style import (
    AROUND_ROWS,
    ROW,
    STYLE,
    interval_bar,
    new_figure,
    png,
    rows_axis,
    svg,
    zero_line,
)
from monosem.report.run_tables import ordinary
from monosem.report.section import Section
from monosem.report.wording import by_family, feature_name


@rc_context(STYLE)
def monosemanticity_figure(results: pd.DataFrame) -> Figure:
    """Matched monosemanticity of every feature set: chance is 0, a single class for every dimension is 1."""
    scores = results[results["metric"] == "matched_monosemanticity"]
    measured = by_family(scores["features"])
    figure, (axes,) = new_figure(AROUND_ROWS + ROW * len(measured), ncols=1)
    zero_line(axes, vertical=True)
    for y, features in enumerate(measured):
        values = scores.loc[scores["features"] == features].groupby("encoder_seed")["value"].mean()
        size = paired_t(values.to_numpy())
        interval_bar(axes, y, size.mean, size.low, size.high, features)
    rows_axis(axes, [feature_name(features) for features in measured])
    axes.set_xlim(right=1)
    axes.set_xlabel("matched monosemanticity: 0 is chance, 1 is a single class for every dimension")
    return figure


def all_figures(
    results: pd.DataFrame, comparisons: pd.DataFrame, asked: Sequence[Section]
) -> dict[str, Figure]:
    """Every figure of results, comparisons and their sections by the stem of its file."""
    shown = ordinary(results)
    figures = {}
    for condition in curve_conditions(shown):
        figures[f"accuracy-{condition}"] = accuracy_curves(shown, condition)
        figures[f"difference-{condition}"] = difference_curves(comparisons, condition)
    for section in asked:
        figures |= {plot.name: plot.draw() for plot in section.plots}
    for condition in conditions(shown):
        for method in METHODS:
            if not accuracies(shown, "tuned", condition, method).empty:
                figures[f"attribution-{method}-{condition}"] = attribution_figure(shown, method, condition)
    if (shown["metric"] == "matched_monosemanticity").any():
        figures["monosemanticity"] = monosemanticity_figure(shown)
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Replace `folder` by every figure as .svg and .png, and return the SVG documents by name.

    The same figures give the same bytes.
    """
    documents = {}
    with atomic_folder(folder, guarded=False) as draft:
        for name, figure in figures.items():
            documents[name] = svg(figure)
            (draft / f"{name}.svg").write_text(documents[name], encoding="utf-8")
            (draft / f"{name}.png").write_bytes(png(figure))
    return documents
