"""How things are called and numbers are written, the same on the page and in its figures.

Shares are stored between 0 and 1; people read points, hundredths of accuracy.
"""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from monosem.experiments.results import BASELINE, METHODS

MINUS = "\N{MINUS SIGN}"
NO_VALUE = "\N{EN DASH}"

_SETS = {
    BASELINE: "SimCLR",
    "ncl": "NCL",
    "sae": "SAE",
    "relu": "SimCLR, ReLU",
    "crelu": "SimCLR, CReLU",
    "ncl-before-relu": "NCL before ReLU",
    "sae-reconstruction": "SAE reconstruction",
}
_CONTROLS = {
    "rotated-": "{}, rotated",
    "spectrum-of-": "SimCLR, spectrum of {}",
    "pca-l0-of-": "PCA to the L0 of {}",
    "pca-dim-of-": "PCA to the dimension of {}",
    "random-topk-like-": "random TopK like {}",
}
METHOD_MEANINGS = {
    "ncl": "an encoder trained with non-negative contrastive learning",
    "sae": "a TopK sparse autoencoder trained on the SimCLR features",
}
PROTOCOL_TITLES = {
    "published": "published",
    "tuned": "tuned",
    "oracle": "oracle (upper bound)",
}
PROTOCOL_MEANINGS = {
    "published": "the paper's fixed probe settings",
    "tuned": "the probe tuned on the training labels it was given",
    "oracle": "the probe tuned on the test labels, an upper bound nobody can have",
}


def feature_name(features: str) -> str:
    """What a feature set of `results.csv` is called in print."""
    for prefix, template in _CONTROLS.items():
        if features.startswith(prefix):
            return template.format(feature_name(features.removeprefix(prefix)))
    return _SETS.get(features, features)


def owner_of(features: str) -> str:
    """The method or baseline a feature set belongs to: itself, or the one a control imitates."""
    return next((method for method in METHODS if method in features.split("-")), BASELINE)


def by_family(features: Iterable[str]) -> list[str]:
    """Each name once: the baseline and its controls, then each method and the controls that imitate it."""
    families = (BASELINE, *METHODS)
    return sorted(
        dict.fromkeys(features), key=lambda name: (families.index(owner_of(name)), name not in families)
    )


def condition_name(condition: str) -> str:
    """A corruption in words: `label-noise-symmetric` is "symmetric label noise"."""
    for family in ("label-noise", "input-noise"):
        if condition.startswith(f"{family}-"):
            kind = condition.removeprefix(f"{family}-").replace("-", " ")
            kind = "Gaussian" if kind == "gaussian" else kind
            return f"{kind} {family.replace('-', ' ')}"
    return condition.replace("-", " ")


def is_label_noise(condition: str) -> bool:
    """Whether the levels of a corruption are rates of wrong labels, not standard deviations of pixels."""
    return condition.startswith("label-noise")


def level_text(condition: str, level: float) -> str:
    """One level with its unit: "40 %" of the labels, or a standard deviation on the 0..1 pixel scale."""
    return f"{100 * level:g} %" if is_label_noise(condition) else f"{level:g}"


def points(value: float, digits: int = 1) -> str:
    """A signed difference of accuracies in points: 0.0312 is "+3.1"; what rounds to 0 has no sign."""
    if not math.isfinite(value):
        return NO_VALUE if math.isnan(value) else f"{'+' if value > 0 else MINUS}\N{INFINITY}"
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 1) -> str:
    """An interval of differences in points: "-0.4 to +1.2"."""
    if math.isinf(low):  # one replicate has no spread
        return "no interval"
    return NO_VALUE if math.isnan(low) else f"{points(low, digits)} to {points(high, digits)}"


def share(value: float, digits: int = 1) -> str:
    """A share between 0 and 1 in per cent."""
    return NO_VALUE if math.isnan(value) else f"{100 * value:.{digits}f} %"


def p_value(p: float) -> str:
    """A p value with two significant digits, never as an exact zero."""
    if math.isnan(p):
        return NO_VALUE
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def replicates(row: "pd.Series[Any]") -> str:
    """What the interval of a comparison is over: "6 encoder pairs" or "9 probes"."""
    if row["unit"] == "encoder":
        return counted(row["n_encoders"], "encoder pair")
    return counted(row["n_encoders"] * row["n_noise"], "probe")


def counted(n: float, noun: str) -> str:
    """A number of things: "1 probe", "6 encoder pairs"."""
    return f"{n:.0f} {noun}{'' if n == 1 else 's'}"


def claim(row: "pd.Series[Any]") -> str:
    """What a primary comparison says about its features, "for these checkpoints" where that is its reach."""
    name = feature_name(str(row["features"]))
    said = {
        "helps": f"{name} helps",
        "hurts": f"{name} hurts",
        "tie": f"{name} makes no practical difference (a tie)",
    }.get(str(row["verdict"]), f"whether {name} helps or hurts cannot be decided with {replicates(row)}")
    return said if row["unit"] == "encoder" else f"{said}, for these checkpoints"
