"""What a gain is made of: the ladder of controls from the dense features to the monosemantic ones.

Every rung is tuned on the same grid, so each step isolates one ingredient. The steps add up to the gain under
the paper's protocol by construction; like any such decomposition it depends on the order of the rungs.
"""

from contextlib import suppress
from dataclasses import dataclass

import pandas as pd

from monosem.core.stats import PairedResult, paired_t
from monosem.experiments.results import BASELINE, endpoints


@dataclass(frozen=True)
class Part:
    """One ingredient of a gain: its name, what it is the difference of, its size with interval (accuracy)."""

    name: str
    meaning: str
    size: PairedResult


@dataclass(frozen=True)
class Attribution:
    """A method's gain over the dense features under the paper's protocol, and the parts it is the sum of."""

    features: str
    condition: str
    gain: PairedResult
    parts: tuple[Part, ...]


RUNGS: tuple[tuple[str, str, str], ...] = (
    ("dense", "{baseline}", "the dense features"),
    ("spectrum", "spectrum-of-{method}", "dense, with the singular values of the monosemantic set"),
    ("ReLU", "relu", "dense, negative half cut off"),
    ("CReLU", "crelu", "dense, both halves side by side"),
    ("PCA to L0", "pca-l0-of-{method}", "dense, as many principal components as active dimensions"),
    ("PCA to dim.", "pca-dim-of-{method}", "dense, cut to the same effective dimension"),
    ("random TopK", "random-topk-like-{method}", "TopK of a random dictionary, as sparse"),
    ("rotated", "rotated-{method}", "the monosemantic set, its axes mixed at random"),
    ("learned", "{method}", "the monosemantic set"),
)
"""Name of the rung, its feature set, what it is. All of them are tuned on the noisy labels."""

_STEPS = (
    ("spectrum", "{baseline}", "spectrum-of-{method}", "a flatter or steeper spectrum alone"),
    (
        "sparsity",
        "spectrum-of-{method}",
        "random-topk-like-{method}",
        "sparse non-negative codes, not learned",
    ),
    ("learning", "random-topk-like-{method}", "rotated-{method}", "what was learned, whatever the axes"),
    ("axes", "rotated-{method}", "{method}", "that single dimensions carry meaning"),
)


def attribute(results: pd.DataFrame, method: str, condition: str) -> Attribution | None:
    """Split the gain of `method` under `condition` into tuning, spectrum, sparsity, learning and axes.

    None where a rung was not measured. Differences are paired by encoder, noise draws averaged first.
    """
    table = endpoints(results)

    def difference(protocol: str, start: str, end: str) -> "pd.Series[float]":
        low, high = (_by_encoder(table, protocol, condition, template, method) for template in (start, end))
        return high - low

    try:
        gain = difference("published", "{baseline}", "{method}")
        steps = [(name, meaning, difference("tuned", start, end)) for name, start, end, meaning in _STEPS]
    except KeyError:
        return None
    tuning = gain - difference("tuned", "{baseline}", "{method}")
    steps.insert(0, ("tuning", "the fixed gradient-trained probe against tuned ridge", tuning))
    parts = tuple(Part(name, meaning, paired_t(size)) for name, meaning, size in steps)
    return Attribution(method, condition, paired_t(gain), parts)


def ladder(results: pd.DataFrame, method: str, condition: str) -> list[tuple[str, str, PairedResult]]:
    """Every measured rung: (name, what it is, tuned endpoint minus that of the dense features)."""
    table = endpoints(results)
    found = []
    for name, template, meaning in RUNGS[1:]:
        with suppress(KeyError):
            dense, rung = (_by_encoder(table, "tuned", condition, of, method) for of in (BASELINE, template))
            found.append((name, meaning, paired_t(rung - dense)))
    return found


def _by_encoder(
    table: "pd.Series[float]", protocol: str, condition: str, template: str, method: str
) -> "pd.Series[float]":
    """Endpoints of one feature set by encoder seed; KeyError where it was not measured."""
    features = template.format(baseline=BASELINE, method=method)
    return table.xs((protocol, condition, features))


def parts_in_words(attribution: Attribution) -> str:
    """What the gain or loss is made of, in points, largest parts first."""
    parts = sorted(attribution.parts, key=lambda part: -abs(part.size.mean))
    return ", ".join(f"{_signed_points(part.size.mean)} {part.name}" for part in parts)


def sentence(attribution: Attribution) -> str:
    """One line, in points: the gain or loss, and all that it is made of."""
    return f"of the {_signed_points(attribution.gain.mean)} points: {parts_in_words(attribution)}"


def _signed_points(accuracy: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0: a part that is nothing has no sign.
    return f"{round(100 * accuracy, 1) + 0.0:+.1f}".replace("+0.0", "0.0")
