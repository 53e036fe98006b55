"""Where it pays: differences to SimCLR over samples, label signal, effective dimension and regularisation.

The horizontal axis is n lambda^2 / d_eff: training samples, label signal squared, over the effective
dimension of the SimCLR features, all of one place on the map.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from monosem.core.stats import holm, rank_correlation
from monosem.experiments.results import BASELINE, MAP, METHODS, all_conditions, protocols
from monosem.report.cells import Row, Table, estimate, number, words
from monosem.report.figure_style import FAINT, MUTED, STYLE, new_figure, zero_line
from monosem.report.paired import size, unit_accuracies
from monosem.report.section import Plot, Section
from monosem.report.wording import counted, feature_name, p_value, points, signed

_FIXED = "ridge-"
_TUNED = "tuned"
_AXIS = "samples x signal² / effective dimension"
# Grey in the middle, so that a ring of any colour is seen on white.
_COLOURS = LinearSegmentedColormap.from_list("difference", ["#762a83", "#c8c8c8", "#1b7837"])


class Place(NamedTuple):
    """A cell of the map: samples, classes, label signal, x = n lambda^2 / d_eff, and where it was"
    " measured."""

    samples: int
    classes: int
    signal: float
    x: float
    condition: str
    level: float


def map_section(results: pd.DataFrame, comparisons: pd.DataFrame) -> Section | None:
    """The section of a run that filled a map."""
    del comparisons
    of_map = results[results["condition"].str.startswith(MAP)]
    if of_map.empty:
        return None
    cells = map_cells(of_map)
    found = tuple(_in_words(of_map, cells))
    plot = Plot(
        "where-it-pays",
        partial(map_figure, cells),
        f"Differences to SimCLR over the map. {' '.join(found)}",
        "Above, tuned probes; below, ridge probes of fixed strength, in rows by the number of classes, the"
        " fewest lowest. Filled where the difference is significant after Holm's correction over the marks of"
        " its panel, hollow where it is not; lines are 95 % intervals.",
    )
    return Section(
        "where-it-pays",
        "Where it pays",
        "Every place has its own number of samples, of classes and strength of label noise. Its differences"
        " are those of the test accuracy to SimCLR's features there.",
        found,
        (plot,),
        (_table(cells),),
        beyond_claims=True,
    )


def places(results: pd.DataFrame) -> list[Place]:
    """The cells of the map, by rising x."""
    found = []
    for condition in (name for name in all_conditions(results) if name.startswith(MAP)):
        of_all = results[results["condition"] == condition]
        at = of_all[of_all["features"] == BASELINE]
        samples, classes = (int(part.partition("=")[2]) for part in condition.removeprefix(MAP).split("-"))
        dimension = at.loc[at["metric"] == "effective_dimension", "value"].mean()
        signals = of_all[of_all["metric"] == "label_signal"].groupby("level")["value"].mean()
        for level in sorted(at.loc[at["metric"] == "accuracy", "level"].unique()):
            signal = float(signals.get(level, 1.0))
            x = samples * signal**2 / dimension
            found.append(Place(samples, classes, signal, x, condition, float(level)))
    return sorted(found, key=lambda place: place.x)


def map_cells(results: pd.DataFrame) -> pd.DataFrame:
    """One row for each method, protocol and place of a map's results: the paired difference and corrected p.

    Holm's correction is over the places, and fixed strengths, of one method; tuned and fixed probes apart.
    """
    found = places(results)
    shown = [name for name in protocols(results) if name == _TUNED or name.startswith(_FIXED)]
    rows = []
    for protocol, condition in product(shown, dict.fromkeys(place.condition for place in found)):
        at = results[(results["protocol"] == protocol) & (results["condition"] == condition)]
        base = unit_accuracies(at, protocol, condition, BASELINE)
        for method in METHODS:
            table = unit_accuracies(at, protocol, condition, method)
            if base.empty or table.empty:
                continue
            difference = table - base
            rows += [
                {
                    "features": method,
                    "protocol": protocol,
                    **place._asdict(),
                    **size(difference[place.level])._asdict(),
                }
                for place in found
                if place.condition == condition
            ]
    cells = pd.DataFrame(rows)
    cells["strength"] = pd.to_numeric(cells["protocol"].str.removeprefix(_FIXED), errors="coerce")
    families = [cells["features"], cells["strength"].isna()]
    cells["p_holm"] = cells.groupby(families)["p"].transform(holm)
    return cells.sort_values(["features", "protocol", "x"])


@rc_context(STYLE)
def map_figure(cells: pd.DataFrame) -> Figure:
    """A column for each method: tuned differences above, those at fixed strengths below; `cells` of"
    " `map_cells`."""
    methods = [method for method in METHODS if (cells["features"] == method).any()]
    fixed = cells["strength"].notna().any()
    figure, panels = new_figure(
        5.2 if fixed else 3.0, nrows=2 if fixed else 1, ncols=len(methods), sharex=True, sharey="row"
    )
    # A few places far out would leave all others grey.
    largest = max(1.0, 100 * float(cells["mean"].abs().quantile(0.95)))
    norm = Normalize(-largest, largest, clip=True)
    for column, method in enumerate(methods):
        of_method = cells[cells["features"] == method]
        tuned, at_strength = of_method[of_method["strength"].isna()], of_method.dropna(subset=["strength"])
        above = panels[column]
        zero_line(above, vertical=False)
        bounded = tuned[np.isfinite(tuned["low"])]
        above.vlines(bounded["x"], 100 * bounded["low"], 100 * bounded["high"], color=MUTED, linewidth=0.7)
        _marks(above, tuned["x"], 100 * tuned["mean"], tuned, norm)
        above.set_xscale("log")
        above.grid(axis="y", color=FAINT)
        above.set_title(feature_name(method))
        if fixed:
            below = panels[len(methods) + column]
            _marks(below, at_strength["x"], _by_classes(at_strength), at_strength, norm)
            below.set_yscale("log")
            strengths = sorted(at_strength["strength"].unique())
            below.set_yticks(strengths, [f"{strength:.0e}" for strength in strengths])
            below.margins(y=0.15)
            below.minorticks_off()
    panels[0].set_ylabel("tuned: difference, points")
    if fixed:
        panels[len(methods)].set_ylabel("fixed ridge strength")
    figure.supxlabel(_AXIS, fontsize=9)
    scale = ScalarMappable(norm, _COLOURS)
    figure.colorbar(
        scale, ax=list(panels), label="difference to SimCLR, points", aspect=40, pad=0.02, extend="both"
    )
    return figure


def _by_classes(cells: pd.DataFrame) -> "pd.Series[float]":
    """The strengths, moved apart by the number of classes, the fewest lowest."""
    strengths, rank = np.sort(cells["strength"].unique()), cells["classes"].rank(method="dense") - 1
    apart = np.log10(strengths[1:] / strengths[:-1]).min() if len(strengths) > 1 else 1.0
    middle = rank.max() / 2
    return cells["strength"] * 10 ** (0.55 * apart * (rank - middle) / max(1, rank.max()))


def _marks(
    axes: Axes, x: "pd.Series[float]", y: "pd.Series[float]", cells: pd.DataFrame, norm: Normalize
) -> None:
    colours = _COLOURS(norm(100 * cells["mean"].to_numpy()))
    significant = (cells["p_holm"] < 0.05).to_numpy()
    faces = np.where(significant[:, None], colours, 1.0)
    axes.scatter(x, y, s=26, facecolors=faces, edgecolors=colours, linewidths=1.3, zorder=3)


def _in_words(results: pd.DataFrame, cells: pd.DataFrame) -> Iterator[str]:
    tuned = cells[cells["strength"].isna()]
    for method in METHODS:
        of_method = tuned[tuned["features"] == method]
        if of_method.empty:
            continue
        significant = of_method[of_method["p_holm"] < 0.05]["mean"]
        rho = rank_correlation(*_by_pair(results, method))
        yield (
            f"{feature_name(method)}, tuned, {counted(rho.n, 'encoder pair')}: of {len(of_method)} places"
            f" it is more accurate than SimCLR at {(significant > 0).sum()} and less at"
            f" {(significant < 0).sum()} (Holm over the places); the difference has a rank correlation of"
            f" {signed(rho)} with {_AXIS}."
        )


def _by_pair(results: pd.DataFrame, method: str) -> tuple[list[float], list[float], list[int]]:
    """x, difference and encoder pair for each place and pair, x from the pair's own dimension."""
    tuned = results[(results["metric"] == "accuracy") & (results["protocol"] == _TUNED)]
    accuracy = tuned.groupby(["features", "condition", "level", "encoder_seed"])["value"].mean()
    dimension = results[(results["metric"] == "effective_dimension") & (results["features"] == BASELINE)]
    dimensions = dimension.groupby(["condition", "encoder_seed"])["value"].mean()
    x, y, pairs = [], [], []
    for place in places(results):
        key = (place.condition, place.level)
        for pair, difference in (accuracy[method, *key] - accuracy[BASELINE, *key]).items():
            x.append(place.samples * place.signal**2 / dimensions[place.condition, pair])
            y.append(float(difference))
            pairs.append(int(str(pair)))
    return x, y, pairs


def _table(cells: pd.DataFrame) -> Table:
    tuned = cells[cells["strength"].isna()]
    methods = [method for method in METHODS if (tuned["features"] == method).any()]
    rows = []
    for _, at in tuned.groupby(["x", "condition", "level"]):
        of = {row["features"]: row for _, row in at.iterrows()}
        first = at.iloc[0]
        place = f"n = {first['samples']:,}, {first['classes']} classes, signal {first['signal']:.2f}"
        cells_of_row = [number(first["x"], "{:.2g}".format)]
        for method in methods:
            row = of[method]
            cells_of_row += [
                estimate(row["mean"], row["low"], row["high"], points),
                words(p_value(row["p_holm"])),
            ]
        rows.append(Row(place, tuple(cells_of_row)))
    return Table(
        "Tuned differences to SimCLR by place, points (95 % interval)",
        ("n signal² / dim.", *("difference", "Holm p") * len(methods)),
        (("", tuple(rows)),),
        spans=(("", 1), *((feature_name(method), 2) for method in methods)),
        corner="place",
    )
