"""The frontier of SAEs side by side: what they explain, and mean, with how many active latents."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from monosem.report.figure_style import FAINT, SERIES, STYLE, legend, new_figure

_PANELS = {"fvu": "variance unexplained, %", "monosemanticity": "monosemanticity, %"}


@rc_context(STYLE)
def sae_frontier(results: pd.DataFrame) -> Figure:
    """A panel each for FVU and, where it was measured, monosemanticity, against mean active latents (log).

    A line joins the SAEs of one activation and width, from few active latents to many.
    """
    shown = {name: label for name, label in _PANELS.items() if results[name].notna().any()}
    figure, panels = new_figure(3.3, ncols=len(shown))
    families = list(results.groupby(["activation", "n_latents"], sort=False))
    looks = [SERIES[i % len(SERIES)] for i in range(len(families))]
    for axes, (name, label) in zip(panels, shown.items(), strict=True):
        for (_, family), (colour, marker) in zip(families, looks, strict=True):
            line = family.sort_values("l0")
            axes.plot(line["l0"], 100 * line[name], color=colour, marker=marker, markersize=4.5)
        _latents_axis(axes, results["l0"])
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(color=FAINT)
    handles = [
        Line2D(
            [], [], color=colour, marker=marker, markersize=4.5, label=f"{n_latents:,} latents, {activation}"
        )
        for ((activation, n_latents), _), (colour, marker) in zip(families, looks, strict=True)
    ]
    legend(figure, handles)
    return figure


def _latents_axis(axes: Axes, l0: "pd.Series[float]") -> None:
    axes.set_xscale("log")
    axes.set_xlabel("active latents a sample (L0)")
    ticks = sorted({round(value) for value in l0 if value >= 1})
    kept = [tick for i, tick in enumerate(ticks) if i == 0 or tick >= 1.25 * ticks[i - 1]]
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
