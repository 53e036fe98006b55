"""What corruptions and their levels are called: in tables, in sentences and on axes."""

from collections.abc import Iterable

import pandas as pd

from monosem.experiments.results import (
    COMMON_CORRUPTIONS,
    FEW_SHOT,
    MAP,
    ONE_CORRUPTION,
    reference_level,
)
from monosem.report.wording import spelt

SHIFT = "shift-"
"""How the condition of a real distribution shift starts."""

_LABEL_NOISE, _INPUT_NOISE = "label-noise-", "input-noise-"
_FROM_FILES = ("label-noise-human", "label-noise-matrix")


def is_label_noise(condition: str) -> bool:
    """Whether the levels of a condition are rates of wrong labels."""
    return condition.startswith((_LABEL_NOISE, MAP))


def is_shift(condition: str) -> bool:
    """Whether a condition is another set of test images, with no levels in between."""
    return condition.startswith(SHIFT)


def condition_name(condition: str) -> str:
    """A condition in words: `label-noise-symmetric` is "symmetric label noise"."""
    if condition == "label-noise-matrix":
        return "label noise from a matrix"
    for family in (_LABEL_NOISE, _INPUT_NOISE):
        if condition.startswith(family):
            kind = spelt(condition.removeprefix(family))
            return f"{kind} {spelt(family).strip()}"
    if is_shift(condition):
        return f"shift to {spelt(condition.removeprefix(SHIFT))}"
    if condition == FEW_SHOT:
        return "few labels"
    return spelt(condition.removeprefix(ONE_CORRUPTION))


def level_text(condition: str, level: float) -> str:
    """One level with its unit.

    A share of the labels ("40 %"; for noise from a file, of the file's noise), a severity, the source or the
    target of a shift, or a standard deviation on the 0..1 pixel scale.
    """
    if is_label_noise(condition) or condition == FEW_SHOT:
        return f"{100 * level:g} %"
    if is_shift(condition):
        return "target" if level else "source"
    if _has_severities(condition):
        return f"severity {level:g}" if level else "clean"
    return f"{level:g}"


def at_level(condition: str, level: float) -> str:
    """A condition at one level: "symmetric label noise at 80 %", or "at 100 % of the file's"."""
    of_file = " of the file's" if condition in _FROM_FILES else ""
    return f"{condition_name(condition)} at {level_text(condition, level)}{of_file}"


def span(results: pd.DataFrame, condition: str) -> str:
    """The levels of a condition without the reference: "10-80 %", "severities 1-5"; nothing for a shift."""
    if is_shift(condition):
        return ""
    levels = results.loc[(results["condition"] == condition), "level"]
    levels = levels[levels != reference_level(condition)]
    ends = dict.fromkeys(f"{_number(condition, level):g}" for level in (levels.min(), levels.max()))
    numbers = "-".join(ends)
    if condition in _FROM_FILES:
        return f"{numbers} % of the file's"
    if condition == FEW_SHOT:
        return f"{numbers} % of the training set"
    if is_label_noise(condition):
        return f"{numbers} %"
    if _has_severities(condition):
        return f"{'severity' if len(ends) == 1 else 'severities'} {numbers}"
    return numbers


def titled(results: pd.DataFrame, condition: str) -> str:
    """A condition with its levels: "symmetric label noise 10-80 %", "common corruptions, severities 1-5"."""
    levels = span(results, condition)
    beside = levels[:1].isdigit() and condition not in (FEW_SHOT, *_FROM_FILES)
    return f"{condition_name(condition)}{' ' if beside else ', '}{levels}".removesuffix(", ")


def over_levels(results: pd.DataFrame, condition: str) -> str:
    """Where an endpoint was measured, after "the mean gain": "over 10-80 % noise", "on art"."""
    levels = span(results, condition)
    if is_shift(condition):
        return f"under the {condition_name(condition)}"
    if condition == FEW_SHOT:
        return f"with {levels}"
    if condition in _FROM_FILES:
        return f"over {levels.removesuffix(' of the file' + chr(39) + 's')} of the file's noise"
    if is_label_noise(condition):
        return f"over {levels} noise"
    if _has_severities(condition):
        return f"over {condition_name(condition)} of {levels}"
    return f"over noise of {levels}"


def reference_name(condition: str) -> str:
    """What gains are compared with to tell robustness, before "gain": the "clean" gain."""
    if is_shift(condition):
        return "source"
    return "full-label" if condition == FEW_SHOT else "clean"


def axis_label(condition: str) -> str:
    """What the levels are, for an axis."""
    if condition in _FROM_FILES:
        return "share of the file's noise, %"
    if is_label_noise(condition):
        return "training labels wrong, %"
    if condition == FEW_SHOT:
        return "share of the training set, %"
    return "severity" if _has_severities(condition) else "noise deviation, pixels 0 to 1"


def axis_values(condition: str, levels: Iterable[float]) -> list[float]:
    """Levels in the unit of `axis_label`."""
    return [_number(condition, level) for level in levels]


def _number(condition: str, level: float) -> float:
    # 100 * 0.07 is 7.000000000000001.
    return round(100 * level, 9) if is_label_noise(condition) or condition == FEW_SHOT else float(level)


def _has_severities(condition: str) -> bool:
    return condition == COMMON_CORRUPTIONS or condition.startswith(ONE_CORRUPTION)
