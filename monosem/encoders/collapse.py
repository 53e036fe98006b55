"""Whether contrastive training learns anything, and what to change when it does not."""

import math

_COLLAPSED_SHARE = 0.95
_AT_CHANCE = 0.01


def explain_collapse(
    readings: dict[str, float], *, trained_for_a_while: bool, non_negative: bool
) -> str | None:
    """What is wrong and which setting to change, or None; `readings` as from `EpochReadings.summary`."""
    loss, chance, dead = readings["loss"], readings["chance"], readings["dead_share"]
    remedy = (
        "use nonlinearity rep_relu with nonnegative_on normalised, or a lower lr_per_256"
        if non_negative
        else "use a lower lr_per_256 or a higher temperature"
    )
    if not math.isfinite(loss):
        return f"the loss is {loss}; use a lower lr_per_256 or a longer warm-up"
    if dead > _COLLAPSED_SHARE:
        return f"collapsed, {dead:.0%} of the feature dimensions are dead; {remedy}"
    if trained_for_a_while and loss > (1 - _AT_CHANCE) * chance:
        return f"the loss {loss:.3f} is still at chance ({chance:.3f}); {remedy}"
    return None
