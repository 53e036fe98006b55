"""How pretraining went: every reading of SimCLR and NCL over the epochs, as small multiples."""

import math
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from monosem.experiments.results import BASELINE
from monosem.report.epochs import read_epochs
from monosem.report.figure_style import COLOURS, FAINT, STYLE, new_figure
from monosem.report.wording import feature_name

READINGS = {
    "loss": "loss",
    "lr": "learning rate",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "active_dimensions": "active dimensions",
    "sparsity": "sparsity",
    "matched_monosemanticity": "monosemanticity",
    "knn_accuracy": "kNN accuracy",
}
"""Reading, title of its panel; in the order of the panels."""

_ENCODERS = (BASELINE, "ncl")
_COLUMNS = 4


def encoder_epochs(run: Path) -> pd.DataFrame:
    """The readings of a run's encoders, of those that can be drawn; empty where it made none itself."""
    epochs = read_epochs(run)
    epochs = pd.concat([epochs[epochs["of"] == of] for of in _ENCODERS], ignore_index=True)
    taken = epochs.columns[epochs.notna().any()]
    return epochs[taken] if set(READINGS) & set(taken) else epochs.iloc[:0]


@rc_context(STYLE)
def pretraining_figure(epochs: pd.DataFrame) -> Figure:
    """A panel for each reading that was taken, a line for each encoder; `epochs` as from `encoder_epochs`."""
    taken = [name for name in READINGS if name in epochs]
    n_rows = math.ceil(len(taken) / _COLUMNS)
    figure, panels = new_figure(
        0.5 + 1.55 * n_rows, nrows=n_rows, ncols=min(_COLUMNS, len(taken)), sharex=True
    )
    alpha = 1.0 if epochs["pair"].nunique() == 1 else 0.6
    for axes, name in zip(panels, taken, strict=False):
        for (of, _), lines in epochs.dropna(subset=[name]).groupby(["of", "pair"], sort=False):
            marker = "." if len(lines) == 1 else ""  # a line of one point is no line
            colour = COLOURS[str(of)]
            axes.plot(lines["epoch"], lines[name], color=colour, linewidth=1.1, alpha=alpha, marker=marker)
        axes.set_title(READINGS[name], fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        counts = name == "active_dimensions"
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=counts))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
        axes.grid(axis="y", color=FAINT)
    for axes in panels[len(taken) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    handles = [
        Line2D([], [], color=COLOURS[of], linewidth=1.6, label=feature_name(of))
        for of in _ENCODERS
        if (epochs["of"] == of).any()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    return figure
