"""Whether contrastive training learns anything: readings of an epoch, and what is wrong with them."""

import math

import torch
from torch import Tensor

from monosem.encoders.contrastive_loss import unit_rows

_DEAD_DEVIATION = 0.01
_COLLAPSED_SHARE = 0.95
_AT_CHANCE = 0.01


class EpochReadings:
    """Sums over an epoch's steps, kept on the device so that no step waits for them.

    A dimension is dead when the standard deviation of the unit-length features along it is below a
    hundredth of 1 / sqrt(D), the root mean square of all dimensions: it then tells no views apart,
    whichever nonlinearity made it.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self._dim = dim
        self._steps = 0
        self._views = 0
        # Double precision: the variance is a small difference of sums when features collapse.
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
        self._agreement = torch.zeros((), device=device, dtype=torch.float64)
        self._sum = torch.zeros(dim, device=device, dtype=torch.float64)
        self._sum_of_squares = torch.zeros(dim, device=device, dtype=torch.float64)

    def add(self, loss: Tensor, features: Tensor | None) -> None:
        """Count a step: its loss [] and, where they count, its features [2N, D], first views first."""
        self._steps += 1
        self._loss += loss
        if features is None:
            return
        u = unit_rows(features)
        self._views += len(u)
        self._sum += u.sum(dim=0)
        self._sum_of_squares += u.square().sum(dim=0)
        first, second = u.chunk(2)
        self._agreement += (first * second).sum()

    def summary(self, batch_size: int) -> dict[str, float]:
        """loss, chance (the loss of features that tell nothing apart), dead_share, alignment.

        `alignment` is the mean squared distance of the unit-length features of an image's two views.
        """
        mean = self._sum / self._views
        deviation = (self._sum_of_squares / self._views - mean.square()).clamp(min=0.0).sqrt()
        dead = deviation * math.sqrt(self._dim) < _DEAD_DEVIATION
        squared_length = self._sum_of_squares.sum() / self._views
        return {
            "loss": float(self._loss / self._steps),
            "chance": math.log(2 * batch_size - 1),
            "dead_share": float(dead.double().mean()),
            "alignment": float(2 * squared_length - 4 * self._agreement / self._views),
        }


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
