"""The figures of a run, from its results and comparisons alone; 95 % intervals, differences in points."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monosem.core.artifacts import atomic_folder
from monosem.core.stats import paired_t
from monosem.experiments.attribution import Attribution, attribute, ladder
from monosem.experiments.comparisons import MIN_ENCODERS
from monosem.experiments.results import BASELINE, METHODS, PROTOCOLS, accuracies, conditions
from monosem.report.figure_style import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    STYLE,
    interval_bar,
    label_lines,
    marks,
    new_figure,
    png,
    svg,
    zero_line,
)
from monosem.report.wording import PROTOCOL_TITLES, by_family, feature_name, is_label_noise, points

_ROW = 0.25
_AROUND_ROWS = 0.95


@rc_context(STYLE)
def accuracy_curves(results: pd.DataFrame, condition: str) -> Figure:
    """Accuracy against the level of one corruption: a panel for each protocol, a line for each method.

    Bands are t intervals over encoders, their noise draws averaged first; over single probes where the run
    has too few encoders, as in its comparisons.
    """
    measured = [p for p in PROTOCOLS if not accuracies(results, p, condition, BASELINE).empty]
    figure, panels = new_figure(2.9, ncols=len(measured), sharey=True)
    for axes, protocol in zip(panels, measured, strict=True):
        ends = {}
        for features in (BASELINE, *METHODS):
            curve = _curve(accuracies(results, protocol, condition, features))
            if curve.empty:
                continue
            x = _x(condition, curve.index)
            mean, low, high = (100 * curve[column].to_numpy() for column in ("mean", "low", "high"))
            axes.fill_between(x, low, high, color=COLOURS[features], alpha=0.18, linewidth=0)
            axes.plot(x, mean, linewidth=1.6, **marks(features))
            ends[features] = (float(x[-1]), float(mean[-1]))
        axes.set_title(PROTOCOL_TITLES[protocol])
        _level_axis(axes, condition)
        axes.grid(axis="y", color=FAINT)
    panels[0].set_ylabel("test accuracy, %")
    label_lines(panels[-1], ends)
    return figure


@rc_context(STYLE)
def difference_curves(comparisons: pd.DataFrame, condition: str) -> Figure:
    """Each method's paired difference to the dense baseline against the level, clean data at level 0."""
    level = comparisons["endpoint"].str.extract(r"^level (\S+)$", expand=False)
    level = level.mask(comparisons["endpoint"] == "clean", "0").astype(float)
    chosen = comparisons.assign(level=level)[(comparisons["condition"] == condition) & level.notna()]
    measured = [p for p in PROTOCOLS if (chosen["protocol"] == p).any()]
    figure, panels = new_figure(2.9, ncols=len(measured), sharey=True)
    for axes, protocol in zip(panels, measured, strict=True):
        zero_line(axes, vertical=False)
        ends = {BASELINE: (0.0, 0.0)}
        for features in METHODS:
            rows = chosen[(chosen["protocol"] == protocol) & (chosen["features"] == features)]
            if rows.empty:
                continue
            rows = rows.sort_values("level")
            x = _x(condition, rows["level"])
            # Side by side, so that one interval never hides the other.
            x = x + _aside(features) * x.max()
            mean, low, high = (100 * rows[column].to_numpy() for column in ("mean_diff", "ci_low", "ci_high"))
            bounded = np.isfinite(low) & np.isfinite(high)
            axes.vlines(x[bounded], low[bounded], high[bounded], color=COLOURS[features], linewidth=1.2)
            axes.plot(x, mean, linewidth=1, **marks(features))
            ends[features] = (float(x[-1]), float(mean[-1]))
        ends[BASELINE] = (max(x for x, _ in ends.values()), 0.0)
        axes.set_title(PROTOCOL_TITLES[protocol])
        _level_axis(axes, condition)
        axes.grid(axis="y", color=FAINT)
    panels[0].set_ylabel(f"difference to {feature_name(BASELINE)}, points")
    label_lines(panels[-1], ends)
    return figure


@rc_context(STYLE)
def attribution_figure(results: pd.DataFrame, method: str, condition: str) -> Figure:
    """What a method's difference is made of: the rungs of the ladder, and the parts that add up to it.

    Left, every rung's tuned difference to the dense features. Right, the parts from zero to the difference
    under the paper's protocol, left out where one of them was not measured.
    """
    rungs = ladder(results, method, condition)
    attribution = attribute(results, method, condition)
    height = _AROUND_ROWS + _ROW * (len(rungs) + 1)
    figure, panels = new_figure(height, ncols=1 if attribution is None else 2)
    axes = panels[0]
    zero_line(axes, vertical=True)
    axes.plot([0], [0], linestyle="none", **marks(BASELINE))
    for y, (name, _, size) in enumerate(rungs, start=1):
        drawn_as = method if name == "learned" else f"control-{method}"
        interval_bar(axes, y, 100 * size.mean, 100 * size.low, 100 * size.high, drawn_as)
    names = [f"{feature_name(BASELINE)} (dense)", *(name for name, _, _ in rungs)]
    _rows_axis(axes, [feature_name(method) if name == "learned" else name for name in names])
    axes.set_title("tuned, every rung")
    axes.set_xlabel(f"difference to {feature_name(BASELINE)}, points")
    if attribution is not None:
        _waterfall(panels[1], attribution)
    return figure


@rc_context(STYLE)
def monosemanticity_figure(results: pd.DataFrame) -> Figure:
    """Matched monosemanticity of every feature set: chance is 0, a single class for every dimension is 1."""
    scores = results[results["metric"] == "matched_monosemanticity"]
    measured = by_family(scores["features"])
    figure, (axes,) = new_figure(_AROUND_ROWS + _ROW * len(measured), ncols=1)
    zero_line(axes, vertical=True)
    for y, features in enumerate(measured):
        values = scores.loc[scores["features"] == features].groupby("encoder_seed")["value"].mean()
        size = paired_t(values.to_numpy())
        interval_bar(axes, y, size.mean, size.low, size.high, features)
    _rows_axis(axes, [feature_name(features) for features in measured])
    axes.set_xlim(right=1)
    axes.set_xlabel("matched monosemanticity: 0 is chance, 1 is a single class for every dimension")
    return figure


def all_figures(results: pd.DataFrame, comparisons: pd.DataFrame) -> dict[str, Figure]:
    """Every figure of results and comparisons by the stem of its file."""
    figures = {}
    for condition in conditions(results):
        figures[f"accuracy-{condition}"] = accuracy_curves(results, condition)
        figures[f"difference-{condition}"] = difference_curves(comparisons, condition)
        for method in METHODS:
            if not accuracies(results, "tuned", condition, method).empty:
                figures[f"attribution-{method}-{condition}"] = attribution_figure(results, method, condition)
    if (results["metric"] == "matched_monosemanticity").any():
        figures["monosemanticity"] = monosemanticity_figure(results)
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """Replace `folder` by every figure as .svg and .png, and return the SVG documents by name.

    The same figures give the same bytes.
    """
    documents = {}
    with atomic_folder(folder) as draft:
        for name, figure in figures.items():
            documents[name] = svg(figure)
            (draft / f"{name}.svg").write_text(documents[name], encoding="utf-8")
            (draft / f"{name}.png").write_bytes(png(figure))
    return documents


def _curve(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval by level from accuracies [(encoder_seed, noise_seed), level]."""
    if table.index.get_level_values("encoder_seed").nunique() >= MIN_ENCODERS:
        table = table.groupby("encoder_seed").mean()
    curve = pd.DataFrame({level: paired_t(table[level].to_numpy()) for level in sorted(table.columns)})
    return curve.T.set_axis(["mean", "low", "high", "p", "n"], axis=1).replace([np.inf, -np.inf], np.nan)


def _x(condition: str, levels: "pd.Series[float] | pd.Index[float]") -> np.ndarray:
    return levels.to_numpy(dtype=float) * (100 if is_label_noise(condition) else 1)


def _aside(features: str) -> float:
    return 0.012 * (METHODS.index(features) - (len(METHODS) - 1) / 2)


def _level_axis(axes: Axes, condition: str) -> None:
    unit = "training labels wrong, %" if is_label_noise(condition) else "noise deviation, pixels 0 to 1"
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 4, 5, 10]))


def _rows_axis(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=FAINT)
    axes.margins(x=0.1)


def _waterfall(axes: Axes, attribution: Attribution) -> None:
    """Bars from zero to the difference, one for each part, each starting where the one before it ended."""
    gain = attribution.gain
    rows = [(part.name, part.size, "#c4c4c4") for part in attribution.parts]
    rows.append(("published", gain, COLOURS[attribution.features]))
    reached = np.cumsum([0.0, *(part.size.mean for part in attribution.parts)])
    starts = np.append(reached[:-1], 0.0)
    zero_line(axes, vertical=True)
    for y, (start, (_, size, colour)) in enumerate(zip(starts, rows, strict=True)):
        axes.barh(y, 100 * size.mean, left=100 * start, height=0.62, color=colour)
        bounds = [100 * (start + value) for value in (size.low, size.high) if np.isfinite(value)]
        axes.plot(bounds, [y] * len(bounds), color=INK, linewidth=1)
        axes.text(1.13, y, points(size.mean), transform=axes.get_yaxis_transform(), ha="right", va="center")
    for y, x in enumerate(100 * reached[1:]):
        axes.plot([x, x], [y - 0.31, y + 1.31], color=MUTED, linewidth=0.8)
    axes.use_sticky_edges = False
    _rows_axis(axes, [name for name, _, _ in rows])
    axes.margins(x=0.05)
    axes.set_title("parts of the published difference")
    axes.set_xlabel("points of accuracy")
