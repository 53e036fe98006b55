"""One look for every figure: colours and marks by feature set, type, axes, and how a figure becomes a file.

The colours are Okabe and Ito's, told apart by colour-blind readers; marks differ in shape too. A control is
drawn hollow, in the colour of the set it imitates.
"""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from monosem.experiments.results import BASELINE
from monosem.report.wording import feature_name, owner_of

COLOURS = {BASELINE: "#4d4d4d", "ncl": "#0072b2", "sae": "#d55e00", "ce": "#4d4d4d", "nce": "#009e73"}
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e6e6e6"
SERIES = tuple(zip(("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"), "osD^vP", strict=True))
"""Colours and marks of what is no feature set, one after the other."""

WIDTH = 7.3
"""Inches: 700 px in a browser."""

_NO_METADATA = ("Date", "Creator", "Format", "Type")
_MARKERS = {BASELINE: "o", "ncl": "s", "sae": "D", "ce": "o", "nce": "^"}
ROW, AROUND_ROWS = 0.25, 0.95
"""Inches: a row of a dot plot, and what stands around the rows."""

STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # Text stays text: searchable, and in the font of the page it stands on.
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}


def new_figure(height: float, **grid: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure of the common width, `height` in inches, and its panels row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(squeeze=False, **grid)
    return figure, list(panels.flat)


def marks(features: str) -> dict[str, Any]:
    """Colour and mark of a feature set, as keywords of `Axes.plot` and `Axes.errorbar`."""
    owner = owner_of(features)
    colour = COLOURS[owner]
    face = colour if features == owner else "white"
    return {"color": colour, "marker": _MARKERS[owner], "markerfacecolor": face, "markersize": 4.5}


def interval_bar(axes: Axes, y: float, mean: float, low: float, high: float, features: str) -> None:
    """One row of a dot plot: the mean, and its interval where it is bounded."""
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [y, y], color=COLOURS[owner_of(features)], linewidth=1.5)
    axes.plot([mean], [y], linestyle="none", **marks(features))


def dot_rows(
    axes: Axes, names: Sequence[str], sizes: Mapping[str, Sequence[tuple[float, float, float] | None]]
) -> None:
    """Named rows with a mean and interval (or nothing) for each feature set, side by side within a row."""
    apart = 0.22 if len(sizes) < 4 else 0.14
    for place, (features, of_rows) in enumerate(sizes.items()):
        for y, size in enumerate(of_rows):
            if size is not None:
                interval_bar(axes, y + apart * (place - (len(sizes) - 1) / 2), *size, features)
    rows_axis(axes, names)


def set_legend(figure: Figure, sets: Sequence[str], **style: Any) -> None:
    """Name the feature sets above the figure, where no line ends to carry its name."""
    look = {"linestyle": "none", **style}
    legend(figure, [Line2D([], [], label=feature_name(name), **(marks(name) | look)) for name in sets])


def legend(figure: Figure, handles: Sequence[Line2D], ncols: int | None = None) -> None:
    """Name marks or lines above the figure, in one row or in rows of `ncols`."""
    figure.legend(
        handles=list(handles),
        loc="outside upper right",
        ncols=len(handles) if ncols is None else ncols,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.4,
    )


def rows_axis(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a dot plot, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=FAINT)
    axes.margins(x=0.1)


def zero_line(axes: Axes, *, vertical: bool) -> None:
    """The line of no difference."""
    draw = axes.axvline if vertical else axes.axhline
    draw(0, color=MUTED, linewidth=1, zorder=0.5)


def label_lines(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write each feature set's name beside the end (x, y) of its line, moved apart where two would touch."""
    if not ends:
        return
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda features: ends[features][1])
    placed = spread(np.array([ends[name][1] for name in names]), 0.075 * (high - low))
    for features, y in zip(names, placed, strict=True):
        axes.annotate(
            feature_name(features),
            (ends[features][0], y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS[owner_of(features)],
            fontweight="bold",
            annotation_clip=False,
        )


def spread(y: np.ndarray, apart: float) -> np.ndarray:
    """Ascending places [n] moved to be at least so far apart, and as little as that allows."""
    offsets = apart * np.arange(len(y))
    placed: np.ndarray = isotonic_regression(y - offsets).x + offsets  # least squares under an order
    return placed


def svg(figure: Figure) -> str:
    """The figure as an SVG document, the same bytes for the same figure."""
    stream = StringIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(_NO_METADATA))
    return stream.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG at twice the resolution of a screen."""
    stream = BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=192, metadata={"Software": None})
    return stream.getvalue()


def embeddable(document: str, prefix: str) -> str:
    """The `<svg>` element of an SVG document, its ids made unique on a page by `prefix`."""
    element = document[document.index("<svg") :]
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", element)
