"""What noisy probes lean on: how monosemantic it is where they are right and where wrong (Fig. 4c)."""

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monosem.core.stats import PairedResult
from monosem.experiments.results import BASELINE, METHODS
from monosem.report.cells import Cell, Row, Table, Write, estimate, words
from monosem.report.condition_words import at_level, condition_name, level_text
from monosem.report.figure_style import (
    AROUND_ROWS,
    COLOURS,
    STYLE,
    interval_bar,
    new_figure,
    rows_axis,
    zero_line,
)
from monosem.report.paired import size
from monosem.report.section import Plot, Section
from monosem.report.wording import (
    MINUS,
    NO_VALUE,
    counted,
    feature_name,
    owner_of,
    protocol_title,
    signed,
)

SETS = tuple(name for native in (BASELINE, *METHODS) for name in (native, f"rotated-{native}"))
_PROTOCOLS = ("published", "tuned")
_SCORES = ("matched", "native")
_ROW = 0.36
_APART = 0.17
_SIDES = (("right", -_APART), ("wrong", _APART))


def salience_section(results: pd.DataFrame, comparisons: pd.DataFrame) -> Section | None:
    """The section of a run that asked what probes lean on."""
    del comparisons
    asked = results[results["metric"].str.startswith("salient_")]
    if asked.empty:
        return None
    (condition,) = asked["condition"].unique()
    highest = float(asked["level"].max())
    found = tuple(_in_words(asked, condition, highest, protocol) for protocol in _PROTOCOLS)
    plot = Plot(
        "salience",
        partial(salience_figure, asked, highest),
        f"Scores of the most active dimension by outcome. {' '.join(found)}",
        f"{at_level(condition, highest).capitalize()}. Left, scores over test samples"
        " that the probe got right (filled) and wrong (hollow): median, middle half and middle nine tenths,"
        " means over encoder pairs. Right, mean where right minus mean where wrong, with 95 % intervals over"
        " encoder pairs.",
    )
    return Section(
        "salience",
        "What noisy classifiers lean on",
        "Every test sample stands for its most active dimension, where that is scored. If classifiers are"
        " right where they can lean on monosemantic dimensions, those of samples they get right are more"
        " monosemantic than those of samples they get wrong; if that is about axes, it goes with a rotation."
        " Dimensions are scored on the training images and their true labels; 0 is chance, 1 is a single"
        " class. The native score of a dense set, and of every rotated one, is about the share of the largest"
        " class and says nothing. For classes, the dimension with the largest weight is scored, and its score"
        " ranked against the class's accuracy.",
        found,
        (plot,),
        (_numbers(asked, condition),),
        beyond_claims=True,
    )


@rc_context(STYLE)
def salience_figure(asked: pd.DataFrame, level: float) -> Figure:
    """Matched scores by outcome, and their difference: a row of panels for each protocol."""
    sets = [name for name in SETS if (asked["features"] == name).any()]
    height = AROUND_ROWS + _ROW * len(sets)
    figure, panels = new_figure(len(_PROTOCOLS) * height, nrows=len(_PROTOCOLS), ncols=2, sharex="col")
    for row, protocol in enumerate(_PROTOCOLS):
        left, right = panels[2 * row : 2 * row + 2]
        at = asked[(asked["protocol"] == protocol) & (asked["level"] == level)]
        zero_line(right, vertical=True)
        for y, features in enumerate(sets):
            for side, apart in _SIDES:
                _draw_spread(left, y + apart, at[at["features"] == features], side)
            size = _difference(at, features, "matched")
            if size is not None:
                interval_bar(right, y, size.mean, size.low, size.high, features)
        rows_axis(left, [feature_name(features) for features in sets])
        rows_axis(right, [""] * len(sets))
        left.set_title(f"{protocol_title(protocol)} probe")
        left.set_xlabel("matched score of the most active dimension")
        right.set_xlabel("right minus wrong")
    return figure


def _draw_spread(axes: Axes, y: float, of: pd.DataFrame, side: str) -> None:
    """Middle nine tenths as a line, middle half as a bar, the median as a mark."""
    names = [f"salient_matched_{side}_q{quantile}" for quantile in ("05", "25", "50", "75", "95")]
    means = of.groupby("metric")["value"].mean()
    if not set(names) <= set(means.index):
        return
    low, lower, median, upper, high = means[names]
    colour = COLOURS[owner_of(str(of["features"].iloc[0]))]
    axes.plot([low, high], [y, y], color=colour, linewidth=0.9)
    filled = side == "right"
    axes.barh(
        y,
        upper - lower,
        left=lower,
        height=0.24,
        facecolor=colour if filled else "white",
        edgecolor=colour,
        linewidth=0.9,
    )
    axes.plot([median] * 2, [y - 0.12, y + 0.12], color="white" if filled else colour, linewidth=1.6)


def _of_pairs(asked: pd.DataFrame, features: str, metric: str) -> "pd.Series[float]":
    """A reading by encoder pair, noise draws averaged."""
    chosen = asked[(asked["features"] == features) & (asked["metric"] == metric)]
    return chosen.groupby("encoder_seed")["value"].mean()


def _differences(at: pd.DataFrame, features: str, score: str) -> "pd.Series[float]":
    """Mean score where right minus where wrong, of the pairs that have both."""
    right, wrong = (_of_pairs(at, features, f"salient_{score}_{side}") for side, _ in _SIDES)
    return (right - wrong).dropna()


def _difference(at: pd.DataFrame, features: str, score: str) -> PairedResult | None:
    """Their mean over encoder pairs."""
    return _over_pairs(_differences(at, features, score))


def _beyond_rotation(at: pd.DataFrame, features: str) -> PairedResult | None:
    """How much larger the difference is than in the rotated features: the axes' own part."""
    native, rotated = (_differences(at, name, "matched") for name in (features, f"rotated-{features}"))
    return _over_pairs((native - rotated).dropna())


def _over_pairs(values: "pd.Series[float]") -> PairedResult | None:
    """Mean and interval over encoder pairs; None without any."""
    return None if values.empty else size(values)


def _in_words(asked: pd.DataFrame, condition: str, level: float, protocol: str) -> str:
    at = asked[(asked["protocol"] == protocol) & (asked["level"] == level)]
    told = []
    for features in (BASELINE, *METHODS):
        size, beyond = _difference(at, features, "matched"), _beyond_rotation(at, features)
        if size is not None and beyond is not None:
            told.append(
                f"{feature_name(features)} {signed(size, 3)}, beyond its rotation {signed(beyond, 3)}"
            )
    pairs = counted(at["encoder_seed"].nunique(), "encoder pair")
    if not told:
        told = ["nothing to compare, as no probe is both right and wrong"]
    return (
        f"{protocol_title(protocol).capitalize()} probe, {at_level(condition, level)},"
        f" {pairs}: matched monosemanticity of the most active dimension where"
        f" right minus where wrong: {'; '.join(told)}."
    )


def _numbers(asked: pd.DataFrame, condition: str) -> Table:
    groups = []
    for protocol, level in dict.fromkeys(zip(asked["protocol"], asked["level"], strict=True)):
        at = asked[(asked["protocol"] == protocol) & (asked["level"] == level)]
        rows = tuple(
            Row(feature_name(features), tuple(_cells(at, features)))
            for features in SETS
            if (at["features"] == features).any()
        )
        groups.append((f"{protocol_title(protocol)}, {level_text(condition, level)}", rows))
    return Table(
        f"What probes lean on under {condition_name(condition)}, mean over encoder pairs (95 % interval)",
        (
            *("right", "wrong", f"right {MINUS} wrong", "beyond its rotation"),
            *("right", "wrong", f"right {MINUS} wrong"),
            *("right ahead", "of classes"),
        ),
        tuple(groups),
        spans=(("matched score", 4), ("native score", 3), ("matched: share, rank correlation", 2)),
        corner="most active dimension",
    )


def _cells(at: pd.DataFrame, features: str) -> Iterator[Cell]:
    for score in _SCORES:
        for side, _ in _SIDES:
            yield _cell(_over_pairs(_of_pairs(at, features, f"salient_{score}_{side}")), "{:.3f}".format)
        yield _cell(_difference(at, features, score), "{:+.3f}".format)
        if score == "matched":
            yield _cell(_beyond_rotation(at, features), "{:+.3f}".format)
    yield _cell(_over_pairs(_of_pairs(at, features, "salient_matched_superiority")), "{:.3f}".format)
    yield _cell(_over_pairs(_of_pairs(at, features, "salient_matched_correlation")), "{:+.2f}".format)


def _cell(size: PairedResult | None, write: Write) -> Cell:
    return words(NO_VALUE) if size is None else estimate(size.mean, size.low, size.high, write)
