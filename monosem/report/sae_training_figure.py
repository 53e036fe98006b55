"""How the SAEs of a sweep learned: what they left unexplained after each epoch."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monosem.report.figure_style import FAINT, STYLE, new_figure, spread
from monosem.report.sae_figure import looks
from monosem.report.sae_tables import frontier

_COLUMNS, _LONG_TITLE = 3, 28


def has_curves(training: pd.DataFrame) -> bool:
    """Whether there is more than a point to draw of every SAE."""
    return bool((training.groupby(["sae", "seed"])["epoch"].count() > 1).any())


@rc_context(STYLE)
def sae_training_figure(results: pd.DataFrame, training: pd.DataFrame) -> Figure:
    """A panel for each family and a line for each SAE, means over first dictionaries.

    Held-out FVU where it was watched, else the loss of the training batches, in the same unit.
    """
    reading, label = reading_shown(training)
    points = frontier(results)
    families = looks(points)
    n_columns = min(2 if max(map(len, families)) > _LONG_TITLE else _COLUMNS, len(families))
    n_rows = -(-len(families) // n_columns)
    figure, panels = new_figure(0.6 + 1.8 * n_rows, nrows=n_rows, ncols=n_columns, sharex=True, sharey=True)
    of_panels = []
    for axes, (family, look) in zip(panels, families.items(), strict=False):
        ends = {}
        for member in points[points["family"] == family].sort_values("l0")["sae"]:
            line = 100 * training[training["sae"] == member].groupby("epoch")[reading].mean()
            axes.plot(line.index, line.to_numpy(), color=look["color"], linewidth=1.2)
            ends[_short(member)] = float(line.iloc[-1])
        axes.set_title(family, fontsize=8.5)
        axes.grid(axis="y", color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
        of_panels.append((axes, ends))
    panels[0].set_ylim(bottom=0)  # of all, once all have their lines
    for axes, ends in of_panels:
        _name_ends(axes, float(training["epoch"].max()), ends)
    for axes in panels[len(families) :]:
        axes.set_axis_off()
    for axes in panels[::n_columns]:
        axes.set_ylabel(label)
    figure.supxlabel("epoch", fontsize=9)
    return figure


def reading_shown(training: pd.DataFrame) -> tuple[str, str]:
    """Column of training.csv that is drawn, and what its axis is called."""
    watched = "fvu" in training and training["fvu"].notna().any()
    return ("fvu", "held-out FVU, %") if watched else ("loss", "training loss, % of variance")


def _short(member: str) -> str:
    """What tells an SAE apart within its family."""
    own = [part for part in member.split(",") if part.startswith(("k=", "sparsity_coef="))]
    return ", ".join(own)


def _name_ends(axes: Axes, x: float, ends: dict[str, float]) -> None:
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda name: ends[name])
    for name, y in zip(names, spread(np.array([ends[n] for n in names]), 0.09 * (high - low)), strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
