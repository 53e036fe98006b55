"""How things are called and numbers are written, the same on the page and in its figures.

Shares are stored between 0 and 1; people read points, hundredths of accuracy.
"""

import math
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

from monosem.core.stats import PairedResult
from monosem.experiments.results import AXIS, BASELINE, DOSE, FINETUNED, LOSS, METHODS

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
    "ce": "CE",
    "nce": "NCE",
}
_CONTROLS = {
    "rotated-": "{}, rotated",
    "spectrum-of-": "SimCLR, spectrum of {}",
    "pca-l0-of-": "PCA to the L0 of {}",
    "pca-dim-of-": "PCA to the dimension of {}",
    "random-topk-like-": "random TopK like {}",
}
_FAMILIES = (BASELINE, *METHODS, "ce", "nce")
"""Baselines and methods; every other feature set belongs to one of them."""

METHOD_MEANINGS = {
    "ncl": "an encoder trained with non-negative contrastive learning",
    "sae": "a TopK sparse autoencoder trained on the SimCLR features",
    "nce": "non-negative cross-entropy, against cross-entropy (CE)",
}
_PROTOCOLS = {
    "published": ("published", "the paper's fixed probe settings"),
    "tuned": ("tuned", "the probe tuned on the training labels it was given"),
    "oracle": (
        "oracle (upper bound)",
        "the probe tuned on the test labels, an upper bound nobody can have",
    ),
    "finetuned": ("finetuned", "the encoder finetuned"),
    "from-scratch": ("from scratch", "the encoder trained from scratch"),
    f"{AXIS}l1": ("L1", "an L1 probe, against the set's own rotation"),
    f"{AXIS}adam": ("Adam", "a probe trained by Adam, against the set's own rotation"),
    f"{AXIS}trees": ("trees", "trees as the probe, against the set's own rotation"),
}
_SPELT = {
    "cross entropy": "CE",
    "mean absolute error": "MAE",
    "normalised and reverse": "normalised + reverse",
    "forward estimated": "forward correction, estimated",
    "forward": "forward correction",
    "gelu": "GELU",
    "crelu": "CReLU",
    "rep relu": "rep-ReLU",
    "relu": "ReLU",
    "lp ft": "LP-FT",
    "gaussian": "Gaussian",
    "jpeg": "JPEG",
}


def feature_name(features: str) -> str:
    """What a feature set of `results.csv` is called in print."""
    for prefix, template in _CONTROLS.items():
        if features.startswith(prefix):
            return template.format(feature_name(features.removeprefix(prefix)))
    loss, _, changed = features.partition("-")
    if loss in ("ce", "nce") and changed:
        return f"{_SETS[loss]}, {spelt(changed)}"
    return _SETS.get(features, features)


def protocol_title(protocol: str) -> str:
    """What a protocol is called in print."""
    if protocol.startswith(LOSS):
        return spelt(protocol.removeprefix(LOSS))
    return _PROTOCOLS[protocol][0] if protocol in _PROTOCOLS else spelt(protocol)


def protocol_meaning(protocol: str) -> str:
    """What was done under a protocol, to be read after "with"."""
    if protocol in _PROTOCOLS:
        return _PROTOCOLS[protocol][1]
    loss = "the probe trained by " if protocol.startswith(LOSS) else ""
    return f"{loss}{protocol_title(protocol)}"


def spelt(name: str) -> str:
    """A name of settings or files as words: `jpeg_compression` is "JPEG compression"."""
    text = name.replace("-", " ").replace("_", " ")
    return re.sub(rf"\b({'|'.join(_SPELT)})\b", lambda found: _SPELT[found[0]], text)


def owner_of(features: str) -> str:
    """The method or baseline a feature set belongs to: itself, or the one a control imitates."""
    return next((name for name in _FAMILIES[1:] if name in features.split("-")), BASELINE)


def is_dose(features: str) -> bool:
    """Whether a feature set is one of many doses of a method, or the rotation of one."""
    return features.removeprefix("rotated-").startswith(DOSE)


def by_family(features: Iterable[str]) -> list[str]:
    """Each name once: the baseline and its controls, then each method and the controls that imitate it."""
    return sorted(
        dict.fromkeys(features), key=lambda name: (_FAMILIES.index(owner_of(name)), name not in _FAMILIES)
    )


def points(value: float, digits: int = 1) -> str:
    """A signed difference of accuracies in points: 0.0312 is "+3.1"; what rounds to 0 has no sign."""
    if not math.isfinite(value):
        return NO_VALUE if math.isnan(value) else f"{'+' if value > 0 else MINUS}\N{INFINITY}"
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def unsigned(value: float, digits: int = 1) -> str:
    """A number of points that is known to be a gain, or a loss: no plus sign."""
    return points(value, digits).removeprefix("+")


def interval(low: float, high: float, digits: int = 1) -> str:
    """An interval of differences in points: "-0.4 to +1.2"."""
    if math.isinf(low):  # one replicate has no spread
        return "no interval"
    return NO_VALUE if math.isnan(low) else f"{points(low, digits)} to {points(high, digits)}"


def signed(found: PairedResult, digits: int = 2) -> str:
    """A difference of scores, or a correlation, with its interval: "+0.31 (+0.12 to +0.50)"."""
    mean, low, high = (
        f"{value:+.{digits}f}".replace("-", MINUS) for value in (found.mean, found.low, found.high)
    )
    return f"{mean} ({low} to {high})" if math.isfinite(found.low) else f"{mean} (one pair, no interval)"


def share(value: float, digits: int = 1) -> str:
    """A share between 0 and 1 in per cent."""
    return NO_VALUE if math.isnan(value) else f"{100 * value:.{digits}f} %"


def p_value(p: float, *, named: bool = False) -> str:
    """A p value with two significant digits, never as an exact zero; `named`: "p = 0.03"."""
    if math.isnan(p):
        return NO_VALUE
    text, sign = ("< 0.0001", "") if p < 0.0001 else (f"{p:.2g}", "= ")
    return f"p {sign}{text}" if named else text


def replicates(row: "pd.Series[Any]") -> str:
    """What the interval of a comparison is over: "6 pretrainings" or "9 probes"."""
    if row["unit"] == "encoder":
        noun = "training" if row["protocol"] == "from-scratch" else "pretraining"
        return counted(row["n_encoders"], noun)
    noun = "training" if row["protocol"] in FINETUNED else "probe"
    return counted(row["n_encoders"] * row["n_noise"], noun)


def indented(sentence: str) -> list[str]:
    """A sentence as lines of a terminal, set in."""
    return textwrap.wrap(sentence, 80, initial_indent="  ", subsequent_indent="    ")


def counted(n: float, noun: str) -> str:
    """A number of things: "1 probe", "6 encoder pairs"."""
    return f"{n:.0f} {noun}{'' if n == 1 else 's'}"
