"""Maps of toy models: what is gained without superposition, over sparsity and noise (Figure 5b)."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from monosem.experiments.toy_maps import APART
from monosem.report.figure_style import INK, STYLE, new_figure
from monosem.report.toy_tables import KINDS, NOISES

_COLOURS = "PuOr"  # orange and purple differ for every kind of colour vision


@rc_context(STYLE)
def toy_figure(comparisons: pd.DataFrame, protocol: str) -> Figure:
    """A row of maps for each noise, a column for each kind without superposition; dots: significant."""
    shown = comparisons[comparisons["protocol"] == protocol]
    most = float(100 * shown["mean_diff"].abs().max()) or 1.0
    figure, panels = new_figure(6.4, nrows=len(NOISES), ncols=len(APART), sharey="row", sharex=False)
    grid = np.asarray(panels).reshape(len(NOISES), len(APART))
    for of_noise, (condition, noise) in zip(grid, NOISES.items(), strict=True):
        for axes, kind in zip(of_noise, APART, strict=True):
            cells = shown[(shown["condition"] == condition) & (shown["features"] == kind)]
            by_place = cells.pivot(index="level", columns="dataset", values="mean_diff")
            by_place = by_place[list(dict.fromkeys(cells["dataset"]))].sort_index()
            significant = cells.pivot(index="level", columns="dataset", values="p_holm")
            significant = significant.loc[by_place.index, by_place.columns] < 0.05
            axes.imshow(
                100 * by_place.to_numpy(), cmap=_COLOURS, vmin=-most, vmax=most, aspect="auto", origin="lower"
            )
            rows, columns = np.nonzero(significant.to_numpy())
            axes.plot(columns, rows, ".", color=INK, markersize=2.5)
            axes.set_title(KINDS[kind].removeprefix("without (").removesuffix(")"))
            shares = [str(name).removeprefix("S=") for name in by_place.columns]
            axes.set_xticks(range(len(shares)), shares, rotation=90, fontsize=7)
            axes.set_yticks(range(len(by_place)), [f"{level:g}" for level in by_place.index], fontsize=7)
            axes.grid(visible=False)
        of_noise[0].set_ylabel(noise)
    figure.supxlabel("sparsity S", fontsize=9)
    scale = ScalarMappable(Normalize(-most, most), _COLOURS)
    figure.colorbar(scale, ax=list(grid.flat), label="without minus with superposition, points", shrink=0.7)
    return figure
