"""What a gain is made of: the ladder of controls from the dense features to the monosemantic ones.

Every rung is tuned on the same grid, so each step isolates one ingredient. The steps add up to the gain under
the paper's protocol by construction; like any such decomposition it depends on the order of the rungs.
"""

from dataclasses import dataclass

import pandas as pd

from monosem.core.stats import PairedResult, paired_t
from monosem.experiments.results import BASELINE, endpoint


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
    ("relu", "relu", "dense, negative half cut off"),
    ("crelu", "crelu", "dense, both halves side by side"),
    ("pca to L0", "pca-l0-of-{method}", "dense, as many principal components as active dimensions"),
    ("pca to dim", "pca-dim-of-{method}", "dense, cut to the same effective dimension"),
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

    def accuracy(protocol: str, template: str) -> "pd.Series[float]":
        return endpoint(results, protocol, condition, template.format(baseline=BASELINE, method=method))

    published = accuracy("published", "{method}") - accuracy("published", "{baseline}")
    tuned = accuracy("tuned", "{method}") - accuracy("tuned", "{baseline}")
    steps = [(name, meaning, accuracy("tuned", b) - accuracy("tuned", a)) for name, a, b, meaning in _STEPS]
    if published.empty or any(size.dropna().empty for _, _, size in steps):
        return None
    steps.insert(0, ("tuning", "fixed probe settings that suit one set better", published - tuned))
    parts = tuple(Part(name, meaning, paired_t(size.to_numpy())) for name, meaning, size in steps)
    return Attribution(method, condition, paired_t(published.to_numpy()), parts)


def ladder(results: pd.DataFrame, method: str, condition: str) -> list[tuple[str, str, PairedResult]]:
    """Every measured rung: (name, what it is, tuned endpoint minus that of the dense features)."""
    dense = endpoint(results, "tuned", condition, BASELINE)
    found = []
    for name, template, meaning in RUNGS[1:]:
        rung = endpoint(results, "tuned", condition, template.format(method=method))
        if not rung.empty:
            found.append((name, meaning, paired_t((rung - dense).to_numpy())))
    return found


def sentence(attribution: Attribution) -> str:
    """One line, in points: what the gain or loss is made of, largest parts first, the rest summed."""
    gain = attribution.gain.mean
    parts = sorted(attribution.parts, key=lambda part: -abs(part.size.mean))
    listed = ", ".join(f"{100 * part.size.mean:+.1f} {part.name}" for part in parts)
    return f"of the {100 * gain:+.1f} points: {listed}"
