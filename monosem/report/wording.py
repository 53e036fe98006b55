"""How things are called and numbers are written, the same on the page and in its figures.

Shares are stored between 0 and 1; people read points, hundredths of accuracy.
"""

import math
from typing import Any

import pandas as pd

from monosem.experiments.results import BASELINE

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
METHOD_TITLES = {
    "ncl": "NCL: non-negative contrastive learning",
    "sae": "SAE: TopK sparse autoencoder on the SimCLR features",
}
PROTOCOL_TITLES = {
    "published": "published",
    "tuned": "tuned",
    "oracle": "oracle (upper bound)",
}
PROTOCOL_MEANINGS = {
    "published": "the paper's fixed probe settings",
    "tuned": "probe strength chosen on the noisy labels",
    "oracle": "probe strength chosen on the clean test labels, an upper bound nobody can have",
}
_OUTCOMES = {"helps": "helps", "hurts": "hurts", "tie": "makes no practical difference (tie)"}


def feature_name(features: str) -> str:
    """What a feature set of `results.csv` is called in print."""
    for prefix, template in _CONTROLS.items():
        if features.startswith(prefix):
            return template.format(feature_name(features.removeprefix(prefix)))
    return _SETS.get(features, features)


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
        return f"{row['n_encoders']:.0f} encoder pairs"
    return f"{row['n_encoders'] * row['n_noise']:.0f} probes"


def outcome(row: "pd.Series[Any]") -> str:
    """The verdict of a primary comparison as a verb phrase, "for these checkpoints" if that is its reach."""
    word = str(row["verdict"])
    phrase = _OUTCOMES.get(word, f"cannot be decided with {replicates(row)}")
    return phrase if row["unit"] == "encoder" else f"{phrase}, for these checkpoints"
