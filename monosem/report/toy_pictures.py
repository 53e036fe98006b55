"""What single toy models look like: their matrices, and what becomes of each concept (4.2, Figure 5a)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from monosem.core.artifacts import load_tensors
from monosem.experiments.toy_maps import SUPERPOSED
from monosem.experiments.toy_run import MODELS
from monosem.explain.toy_model import superposition, top_map
from monosem.report.figure_style import COLOURS, FAINT, STYLE, new_figure

_COLUMNS = 4
_SIGNED, _RISING = "PuOr", "viridis_r"


def toy_pictures(run: Path, sparsity: Sequence[float]) -> dict[str, Figure]:
    """Figures of the first model of each kind, by name; none for a run that kept no models."""
    if not (run / MODELS).exists():
        return {}
    weights = load_tensors(run / MODELS)
    places = np.unique(np.linspace(0, len(sparsity) - 1, _COLUMNS).round().astype(int)).tolist()
    titles = [f"S = {sparsity[place]:g}" for place in places]
    superposed, linear = (list(weights[kind][places]) for kind in (SUPERPOSED, "linear"))
    n_dims, n_concepts = superposed[0].shape
    apart = [weights["dense-trained"], top_map(n_concepts, n_dims).weight[0]]
    return {
        "matrices": matrices_figure(
            {
                "with superposition": dict(zip(titles, superposed, strict=True)),
                "linear": dict(zip(titles, linear, strict=True)),
                "without": dict(zip(("trained at S = 0", "exact map"), apart, strict=True)),
            }
        ),
        "concepts": concepts_figure(dict(zip(titles, superposed, strict=True))),
    }


@rc_context(STYLE)
def matrices_figure(models: dict[str, dict[str, Tensor]]) -> Figure:
    """W^T W of models [m, n], a row for each kind: what is left of the concept below, for the one at left."""
    columns = max(len(of_kind) for of_kind in models.values())
    figure, panels = new_figure(1.65 * len(models) + 0.2, nrows=len(models), ncols=columns)
    grid = np.asarray(panels).reshape(len(models), columns)
    for row, (kind, of_kind) in zip(grid, models.items(), strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, (title, weight) in zip(row, of_kind.items(), strict=False):
            axes.set_axis_on()
            axes.imshow((weight.mT @ weight).numpy(), cmap=_SIGNED, vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=8, fontweight="normal")
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(kind)
    scale = ScalarMappable(Normalize(-1, 1), _SIGNED)
    figure.colorbar(scale, ax=list(grid.flat), label="entry of WᵀW", shrink=0.6)
    return figure


@rc_context(STYLE)
def concepts_figure(models: dict[str, Tensor]) -> Figure:
    """Norm of each concept in models [m, n], coloured by interference, and its dimensionality."""
    figure, panels = new_figure(3.6, nrows=2, ncols=len(models), sharey="row", sharex=True)
    colours = ScalarMappable(Normalize(0, 1), _RISING)
    for column, (title, weight) in enumerate(models.items()):
        found = superposition(weight[None])
        above, below = panels[column], panels[len(models) + column]
        norms, interference = found.norm[0].numpy(), found.interference[0].numpy()
        above.bar(np.arange(len(norms)), norms, color=colours.to_rgba(interference), width=0.85)
        above.set_title(title, fontsize=8, fontweight="normal")
        below.plot(found.dimensionality[0].numpy(), ".", color=COLOURS["simclr"], markersize=3.5)
        for level in (0.5, 1.0):
            below.axhline(level, color=FAINT, zorder=0)
    figure.supxlabel("concept, the most important first", fontsize=9)
    panels[0].set_ylabel("norm |Wᵢ|")
    panels[len(models)].set_ylabel("dimensionality")
    figure.colorbar(colours, ax=list(panels), label="interference with others", extend="max", shrink=0.6)
    return figure
