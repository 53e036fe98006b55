"""What a run asked, what it found and what it cannot say, in sentences.

Gains, losses, ties and open questions are told in the same words, order and weight; nothing is left out.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from monosem.experiments.comparisons import MIN_ENCODERS, primary
from monosem.experiments.results import BASELINE, METHODS, PROTOCOLS, conditions
from monosem.report.wording import (
    PROTOCOL_MEANINGS,
    claim,
    condition_name,
    counted,
    feature_name,
    interval,
    is_label_noise,
    level_text,
    p_value,
    points,
    replicates,
    share,
)

_SIGNS = {"helps": "\N{BLACK UP-POINTING TRIANGLE}", "hurts": "\N{BLACK DOWN-POINTING TRIANGLE}", "tie": "="}

_ENDS = (
    ("loss", "loss", ".3g"),
    ("active_dimensions", "active dimensions", ",.0f"),
    ("matched_monosemanticity", "monosemanticity", ".3g"),
    ("knn_accuracy", "kNN accuracy", ".3g"),
)
"""Readings that tell how a pretraining ended: name, title, form."""


class Finding(NamedTuple):
    """One verdict at a glance, and the sentence that says it with unit and interval."""

    protocol: str
    sign: str
    word: str
    size: str
    sentence: str


def facts(manifest: dict[str, Any], comparisons: pd.DataFrame) -> list[str]:
    """The size of the experiment in a few words."""
    data = manifest["data"]
    images = ", ".join(f"{part['samples']:,} {part['split']}" for part in data)
    row = comparisons[comparisons["verdict"].notna()].iloc[0]
    return [
        f"{data[0]['name']}: {images} images, {data[0]['classes']} classes",
        counted(row["n_encoders"], "encoder pair"),
        f"{counted(row['n_noise'], 'noise draw')} each",
    ]


def unit(comparisons: pd.DataFrame) -> str:
    """What the intervals of the comparisons are over, in the plural."""
    claims = comparisons[comparisons["verdict"].notna()]
    return "encoder pairs" if (claims["unit"] == "encoder").all() else "probes"


def question(results: pd.DataFrame) -> str:
    """What was asked, with every corruption and its range."""
    asked = []
    for condition in conditions(results):
        what = "training labels are wrong" if is_label_noise(condition) else "test images are noisy"
        asked.append(f"{what} ({condition_name(condition)}, {_levels(results, condition)})")
    return _unbroken(
        "Is a linear probe on monosemantic features more accurate than one on dense SimCLR features when "
        f"{', and when '.join(asked)}?"
    )


def findings(
    results: pd.DataFrame, comparisons: pd.DataFrame, method: str
) -> Iterator[tuple[str, list[Finding]]]:
    """Every verdict about one method by condition, the protocols always in the same order."""
    for condition in conditions(results):
        rows = [(protocol, primary(comparisons, protocol, condition, method)) for protocol in PROTOCOLS]
        found = [_finding(protocol, row) for protocol, row in rows if row is not None]
        yield f"{condition_name(condition)}, {_levels(results, condition)}", found


def limits(results: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[str]:
    """What the numbers of this run cannot say, one sentence or two each."""
    claims = comparisons[comparisons["verdict"].notna()]
    n = f"{claims['n_encoders'].iloc[0]:.0f}"
    if unit(comparisons) == "encoder pairs":
        yield (
            f"The unit of replication is one independently trained encoder pair; there are {n}. Intervals and"
            " p values are over pairs, noise draws averaged first."
        )
    else:
        yield (
            f"There are fewer than {MIN_ENCODERS} encoder pairs ({n}), so the unit is a single probe. Every"
            " verdict is about these checkpoints and says nothing about the methods."
        )
    yield (
        f"Holm's correction is over the {len(claims)} verdicts of this run. Single levels, controls and clean"
        " accuracy carry intervals without correction."
    )
    data, encoder = results["dataset"].iloc[0], results["encoder"].iloc[0]
    test_images = results.loc[results["metric"] == "accuracy", "n"].max()
    yield (
        f"One data set ({data}), one architecture ({encoder}), {test_images:,.0f} test images. The paired"
        " intervals take the test images as given; the two-way bootstrap draws them anew as well."
    )
    yield (
        "The oracle chooses the probe's regularisation by accuracy on the test images it is then scored on:"
        " an upper bound nobody can have, shown to tell what tuning could reach at best."
    )
    yield (
        "The published protocol trains its probes by gradient descent; the tuned one and the oracle are ridge"
        " classifiers, so the part called tuning holds that change too."
    )
    yield (
        "The parts are measured with ridge probes, which are blind to a rotation of the features up to"
        " rounding. The part called axes is therefore expected at zero, and no gain here can be credited to"
        " what single dimensions mean."
    )
    yield from _dead_levels(results)
    edges = results.loc[(results["metric"] == "at_edge") & (results["protocol"] == "tuned"), "value"]
    if edges.sum() > 0:
        yield (
            f"{share(edges.mean())} of the tuned choices lie at the edge of the grid; a wider grid might have"
            " chosen otherwise there."
        )


def accuracy_in_words(results: pd.DataFrame, condition: str) -> str:
    """Where the accuracy curves of a condition start and end, for who cannot see them."""
    chosen = results[(results["metric"] == "accuracy") & (results["condition"] == condition)]
    means = chosen.groupby(["protocol", "features", "level"])["value"].mean()
    worst = chosen["level"].max()
    ends = [
        f"{feature_name(features)} {share(means[protocol, features, 0.0])} to"
        f" {share(means[protocol, features, worst])} ({protocol})"
        for protocol in PROTOCOLS
        for features in (BASELINE, *METHODS)
        if (protocol, features, worst) in means.index
    ]
    return f"Accuracy from clean data to {level_text(condition, worst)}: {'; '.join(ends)}."


def difference_in_words(comparisons: pd.DataFrame, condition: str) -> str:
    """Where the difference curves of a condition end."""
    chosen = comparisons[(comparisons["condition"] == condition) & comparisons["features"].isin(METHODS)]
    single = chosen[chosen["endpoint"].str.startswith("level ")]
    worst = single[single["endpoint"] == single["endpoint"].iloc[-1]]
    ends = [
        f"{feature_name(row['features'])} {points(row['mean_diff'])} ({row['protocol']})"
        for _, row in worst.iterrows()
    ]
    return f"Points of difference to {feature_name(BASELINE)} at the highest level: {'; '.join(ends)}."


def pretraining_in_words(epochs: pd.DataFrame) -> str:
    """How every encoder's pretraining ended; mean over pairs where there are several."""
    said = []
    for of, readings in epochs.groupby("of", sort=False):
        last = readings.groupby("pair").last().mean(numeric_only=True)
        parts = [
            f"{title} {last[name]:{form}}"
            for name, title, form in _ENDS
            if name in last and math.isfinite(last[name])
        ]
        said.append(f"{feature_name(str(of))} after {counted(last['epoch'], 'epoch')}: {', '.join(parts)}.")
    return _unbroken(" ".join(said))


def _finding(protocol: str, row: "pd.Series[Any]") -> Finding:
    word = str(row["verdict"])
    size = f"{points(row['mean_diff'])} points"
    bounds = f"95 % interval {interval(row['ci_low'], row['ci_high'])} over {replicates(row)}"
    evidence = f"{size} ({bounds}; Holm p {p_value(row['p_holm'])})"
    said = f"With {PROTOCOL_MEANINGS[protocol]}, {claim(row)}: {evidence}."
    return Finding(protocol, _SIGNS.get(word, "?"), word, size, _unbroken(said))


def _dead_levels(results: pd.DataFrame) -> Iterator[str]:
    signal = results[(results["metric"] == "label_signal") & (results["value"] < 1e-9)]
    for condition, level in dict.fromkeys(zip(signal["condition"], signal["level"], strict=True)):
        yield (
            f"{condition_name(condition)} at {level_text(condition, level)} leaves no signal in the labels:"
            " chance is the best any probe can do there."
        )


def _levels(results: pd.DataFrame, condition: str) -> str:
    levels = results.loc[(results["condition"] == condition) & (results["level"] > 0), "level"]
    ends = dict.fromkeys(level_text(condition, level) for level in (levels.min(), levels.max()))
    return " to ".join(ends)


def _unbroken(text: str) -> str:
    """Keep numbers on one line with what they count."""
    before_unit, after_name = r"(?<=\d) (?=%|points|encoder|probe)", r"(?<=Holm) (?=p )|(?<= p) (?=[\d<])"
    return re.sub(f"{before_unit}|{after_name}", "\N{NO-BREAK SPACE}", text)
