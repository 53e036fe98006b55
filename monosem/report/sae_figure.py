"""The frontier of SAEs side by side: what they explain, and mean, with how many active latents."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from monosem.report.figure_style import FAINT, MUTED, SERIES, STYLE, legend, new_figure
from monosem.report.sae_tables import features_score, frontier

_PANELS = {"fvu": "variance unexplained, %", "monosemanticity": "monosemanticity, %"}
_LEGEND_COLUMNS = 3
_BEFORE: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (1, 2)), "marker": ".", "markersize": 4}


@rc_context(STYLE)
def sae_frontier(results: pd.DataFrame) -> Figure:
    """A panel each for FVU and, where it was measured, monosemanticity, against mean active latents (log).

    A line joins the SAEs of one family, from few active latents to many; bars are 95 % intervals over first
    dictionaries, dashes the features themselves, dots the SAEs before training.
    """
    shown = {name: label for name, label in _PANELS.items() if results[name].notna().any()}
    points = frontier(results)
    families = looks(points)
    reference: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
    handles = [Line2D([], [], label=family, **look) for family, look in families.items()]
    if "monosemanticity" in shown:
        handles.append(Line2D([], [], label="before training", color=MUTED, **_BEFORE))
        handles.append(Line2D([], [], label="the features themselves", **reference))
    figure, panels = new_figure(2.8 + 0.2 * -(-len(handles) // _LEGEND_COLUMNS), ncols=len(shown))
    for axes, (name, label) in zip(panels, shown.items(), strict=True):
        for place, (family, look) in enumerate(families.items()):
            line = points[points["family"] == family].sort_values("l0")
            low, high = (100 * line[f"{name}_{end}"] for end in ("low", "high"))
            # Side by side where there are bars, so that one never hides the other.
            barred = low.notna().any()
            aside = 1.03 ** (place - (len(families) - 1) / 2) if barred else 1.0
            if barred:
                axes.vlines(line["l0"] * aside, low, high, look["color"], linewidth=1.2)
            axes.plot(line["l0"] * aside, 100 * line[name], **look)
            if name == "monosemanticity":
                before = 100 * line["untrained_monosemanticity"]
                axes.plot(line["untrained_l0"] * aside, before, color=look["color"], **_BEFORE)
        if name == "monosemanticity":
            axes.axhline(100 * features_score(results), zorder=0.5, **reference)
        _latents_axis(axes, points["l0"])
        axes.set_ylabel(label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if (points[name] < 0).any() else 0.0)
        axes.grid(color=FAINT)
    legend(figure, handles, ncols=_LEGEND_COLUMNS)
    return figure


def looks(points: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and mark of each family, the same in every figure of a run; hollow once colours repeat."""
    found = {}
    for number, family in enumerate(dict.fromkeys(points["family"])):
        colour, marker = SERIES[number % len(SERIES)]
        face = colour if number < len(SERIES) else "white"
        found[family] = {"color": colour, "marker": marker, "markersize": 4.5, "markerfacecolor": face}
    return found


def _latents_axis(axes: Axes, l0: "pd.Series[float]") -> None:
    axes.set_xlabel("active latents a sample (L0)")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    kept: list[int] = []
    for tick in sorted({round(value) for value in l0 if value >= 1}):
        if not kept or tick >= 1.25 * kept[-1]:
            kept.append(tick)
    if len(kept) < 2 and l0.nunique() > 1:  # so near each other that decades say nothing
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    low, high = axes.get_xlim()  # the ticks are rounded, and may lie outside by that
    axes.set_xlim(min([low, *kept]), max([high, *kept]))
