"""Dose and response: does a gain follow the effective dimension, or monosemanticity?

Doses of one family (an SAE's k, NCL's training time, a transformation of SimCLR's features) differ in the
dose alone. A rotation keeps the effective dimension and takes the monosemanticity.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.core.stats import paired_t, rank_correlation
from monosem.experiments.results import BASELINE, DOSE, conditions, endpoints
from monosem.report.cells import Row, Table, estimate
from monosem.report.condition_words import condition_name, over_levels
from monosem.report.figure_style import COLOURS, FAINT, STYLE, legend, new_figure, zero_line
from monosem.report.section import Plot, Section
from monosem.report.wording import counted, interval, is_dose, points, signed, spelt

_FAMILIES = {
    "sae": ("SAE, by k", COLOURS["sae"], "D"),
    "ncl": ("NCL, by epoch", COLOURS["ncl"], "s"),
    "map": ("SimCLR, by transformation", "#009e73", "^"),
}
"""Title, colour, mark."""

_AGAINST = {
    "effective_dimension": "effective dimension",
    "matched_monosemanticity": "matched monosemanticity",
}
_PROTOCOL = "tuned"
_FEWEST = 3
"""Doses that have a rank correlation."""


def dose_section(results: pd.DataFrame, comparisons: pd.DataFrame) -> Section | None:
    """The section of a run with doses."""
    del comparisons
    tables = {condition: dose_table(results, condition) for condition in conditions(results)}
    tables = {condition: table for condition, table in tables.items() if not table.empty}
    if not tables:
        return None
    tuned = results[results["protocol"] == _PROTOCOL]
    over = {condition: over_levels(tuned, condition) for condition in tables}
    found = tuple(said for condition, table in tables.items() for said in _in_words(table, over[condition]))
    plots = tuple(
        Plot(
            f"dose-{condition}",
            partial(dose_figure, table),
            f"Gain over SimCLR against effective dimension and monosemanticity. {' '.join(found)}",
            "Every mark is a dose, larger ones higher doses; hollow marks are the same features rotated,"
            " joined to them by a line. Means over encoder pairs with 95 % intervals of the tuned gain over"
            f" SimCLR, {over[condition]}.",
        )
        for condition, table in tables.items()
    )
    return Section(
        "doses",
        "Dose and response",
        "If monosemanticity makes the gain, it grows with the monosemanticity and goes with a rotation,"
        " which takes it. If the spread of the spectrum does, the gain follows the effective dimension,"
        " which a rotation keeps. Rank correlations are within encoder pairs, their intervals over them.",
        found,
        plots,
        tuple(_numbers(table, condition) for condition, table in tables.items()),
        beyond_claims=True,
    )


def dose_table(results: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row for each dose and encoder pair: family, dose, whether rotated, both measures, tuned gain.

    In the order the doses were run, numbers rising.
    """
    chosen = endpoints(results[results["condition"] == condition])
    columns = ["features", "family", "dose", "rotated", "pair", *_AGAINST, "gain"]
    if _PROTOCOL not in chosen.index.get_level_values("protocol"):
        return pd.DataFrame(columns=columns)
    by_pair = chosen.xs((_PROTOCOL, condition)).unstack("encoder_seed")
    if BASELINE not in by_pair.index:
        return pd.DataFrame(columns=columns)
    gains = (by_pair - by_pair.loc[BASELINE]).stack()
    measured = results[(results["protocol"] == "measured") & (results["condition"] == "clean")]
    values = measured.groupby(["metric", "features", "encoder_seed"])["value"].mean()
    rows = []
    for features in filter(is_dose, by_pair.index):
        family, dose = _parsed(features)
        for pair, gain in gains[features].items():
            facts = {name: values[name, features, pair] for name in _AGAINST}
            row = {"features": features, "family": family, "dose": dose, "pair": pair, "gain": gain, **facts}
            rows.append({**row, "rotated": features.startswith("rotated-")})
    table = pd.DataFrame(rows, columns=columns)
    rank = {name: number for number, name in enumerate(results["features"].unique())}
    order = table["features"].map(rank)
    numeric = pd.to_numeric(table["dose"], errors="coerce")
    return table.assign(order=numeric.fillna(order)).sort_values(["family", "rotated", "order", "pair"])


def _parsed(features: str) -> tuple[str, str]:
    """Family and dose: `dose-sae-k=16` is ("sae", "16"), `dose-map=rep-relu` is ("map", "rep-relu")."""
    setting, _, dose = features.removeprefix("rotated-").removeprefix(DOSE).partition("=")
    return setting.partition("-")[0], dose


@rc_context(STYLE)
def dose_figure(table: pd.DataFrame) -> Figure:
    """Tuned gain over SimCLR against both measures; `table` as from `dose_table`."""
    figure, panels = new_figure(3.6, ncols=2, sharey=True)
    families = [family for family in _FAMILIES if (table["family"] == family).any()]
    for axes, (measure, title) in zip(panels, _AGAINST.items(), strict=True):
        zero_line(axes, vertical=False)
        for family in families:
            _draw_family(axes, table[table["family"] == family], measure, family)
        axes.set_xlabel(title)
        axes.grid(axis="y", color=FAINT)
    panels[0].set_ylabel("gain over SimCLR, points")
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=colour, label=title)
        for title, colour, mark in (_FAMILIES[family] for family in families)
    ]
    legend(figure, handles)
    return figure


def _draw_family(axes: Axes, table: pd.DataFrame, measure: str, family: str) -> None:
    _, colour, mark = _FAMILIES[family]
    doses = list(dict.fromkeys(table["dose"]))
    for number, dose in enumerate(doses):
        ends = []
        of_dose = table[table["dose"] == dose]
        for rotated, rows in of_dose.groupby("rotated"):
            x, gain = rows[measure].mean(), paired_t(rows["gain"].to_numpy())
            if np.isfinite([gain.low, gain.high]).all():
                axes.vlines(x, 100 * gain.low, 100 * gain.high, color=colour, linewidth=0.8, alpha=0.5)
            # Where both are in one place, the rotated one is a ring around the other.
            marker_size = 3.5 + 4 * number / max(1, len(doses) - 1) + 3 * bool(rotated)
            axes.plot(
                [x],
                [100 * gain.mean],
                linestyle="none",
                marker=mark,
                color=colour,
                markersize=marker_size,
                markerfacecolor="white" if rotated else colour,
                zorder=2 if rotated else 3,
            )
            ends.append((x, 100 * gain.mean))
        if len(ends) == 2:
            axes.plot(*zip(*ends, strict=True), color=colour, linewidth=0.8, zorder=1)


def _in_words(table: pd.DataFrame, over: str) -> Iterator[str]:
    native = table[~table["rotated"]]
    for family, (title, _, _) in _FAMILIES.items():
        rows = native[native["family"] == family]
        doses = list(dict.fromkeys(rows["dose"]))
        if len(doses) < _FEWEST:
            continue
        told = [
            f"{signed(rank_correlation(rows[measure], rows['gain'], rows['pair']))} with {name}"
            for measure, name in _AGAINST.items()
        ]
        pairs = counted(rows["pair"].nunique(), "encoder pair")
        yield (
            f"{title}, {len(doses)} doses from {spelt(doses[0])} to {spelt(doses[-1])}, {pairs}: the tuned"
            f" gain {over} has a rank correlation of {' and of '.join(told)}."
        )
    turned = table.pivot_table(index=["family", "dose", "pair"], columns="rotated", values="gain").dropna()
    if {True, False} <= set(turned.columns):
        lost = paired_t((turned[False] - turned[True]).groupby("pair").mean().to_numpy())
        yield (
            f"A rotation costs {points(lost.mean)} points of the gain on average"
            f" ({interval(lost.low, lost.high)})."
        )


def _numbers(table: pd.DataFrame, condition: str) -> Table:
    groups = []
    for family, (title, _, _) in _FAMILIES.items():
        rows = []
        for (_, dose, rotated), of in table[table["family"] == family].groupby(
            ["features", "dose", "rotated"], sort=False
        ):
            cells = []
            for column, write in (
                ("effective_dimension", "{:.1f}".format),
                ("matched_monosemanticity", "{:.2f}".format),
                ("gain", points),
            ):
                found = paired_t(of[column].to_numpy())
                cells.append(estimate(found.mean, found.low, found.high, write))
            rows.append(Row(f"{spelt(str(dose))}{', rotated' if rotated else ''}", tuple(cells)))
        if rows:
            groups.append((title, tuple(rows)))
    return Table(
        f"Doses under {condition_name(condition)}, mean over encoder pairs (95 % interval)",
        ("effective dimension", "matched monosemanticity", "tuned gain over SimCLR, points"),
        tuple(groups),
        corner="dose",
    )
