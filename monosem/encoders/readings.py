"""Readings of an epoch of contrastive training, kept on the device so that no step waits for them."""

import math

import torch
from torch import Tensor

from monosem.core.distributed import summed
from monosem.encoders.contrastive_loss import unit_rows

_DEAD_DEVIATION = 0.01
_PAIRED_ROWS = 512  # rows of a batch whose pairs enter uniformity: enough, and the cost stays out of sight


class EpochReadings:
    """Sums over an epoch's steps; `sums` is all there is to save.

    A dimension is dead when the standard deviation of the unit-length features along it is below a
    hundredth of 1 / sqrt(D), the root mean square of all dimensions: it then tells no views apart,
    whichever nonlinearity made it.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self._dim = dim

        # Double precision: the variance is a small difference of sums when features collapse.
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=torch.float64)

        scalars = ("steps", "loss", "views", "agreement", "zeros", "potential", "pairs")
        self.sums = {**{name: zeros() for name in scalars}, "sum": zeros(dim), "squares": zeros(dim)}

    def add(self, loss: Tensor, features: Tensor | None) -> None:
        """Count a step: its loss [] and, where they count, its features [2n, D], first views first."""
        sums = self.sums
        sums["steps"] += 1
        sums["loss"] += loss
        if features is None:
            return
        u = unit_rows(features)
        sums["views"] += len(u)
        sums["sum"] += u.sum(dim=0)
        sums["squares"] += u.square().sum(dim=0)
        sums["zeros"] += (u == 0).sum()
        first, second = u.chunk(2)
        sums["agreement"] += (first * second).sum()
        some = first[:_PAIRED_ROWS]
        # |x - y|^2 = 2 - 2 x.y for unit rows; a row with itself adds exp(0) = 1.
        sums["potential"] += torch.exp(4 * (some @ some.T) - 4).sum() - len(some)
        sums["pairs"] += len(some) * (len(some) - 1)

    def summary(self, batch_size: int) -> dict[str, float]:
        """What the epoch was like, over all processes.

        - `loss`, and `chance`: the loss of features that tell nothing apart.
        - `dead_share` of the dimensions, `active_dimensions`: how many are not dead.
        - `sparsity`: share of entries that are exactly zero.
        - `alignment`: mean squared distance of the unit-length features of an image's two views.
        - `uniformity`: log of the mean of exp(-2 |x - y|^2) over pairs of images (Wang & Isola 2020) that a
          process holds at once.
        """
        total = {name: summed(value) for name, value in self.sums.items()}
        views = total["views"]
        mean, mean_square = total["sum"] / views, total["squares"] / views
        deviation = (mean_square - mean.square()).clamp(min=0.0).sqrt()
        dead = deviation * math.sqrt(self._dim) < _DEAD_DEVIATION
        return {
            "loss": float(total["loss"] / total["steps"]),
            "chance": math.log(2 * batch_size - 1),
            "dead_share": float(dead.double().mean()),
            "active_dimensions": float((~dead).sum()),
            "sparsity": float(total["zeros"] / (views * self._dim)),
            "alignment": float(2 * mean_square.sum() - 4 * total["agreement"] / views),
            "uniformity": float(torch.log(total["potential"] / total["pairs"])),
        }
