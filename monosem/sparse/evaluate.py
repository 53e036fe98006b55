"""How much of the features an SAE explains, and with how many latents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.measures.blocks import BLOCK_ROWS, Features, features_shape, row_blocks
from monosem.measures.geometry import mean_and_rms
from monosem.sparse.sae import SAE


@dataclass(frozen=True)
class Quality:
    """An SAE on some features `[N, D]`.

    fvu: fraction of variance unexplained, sum |x - x_hat|^2 / sum |x - mean|^2, in the features' own space.
    fvu_normalised: the same in the space the SAE works in; another number only with `input_norm` "layer".
    explained_variance: 1 - variance of x - x_hat / variance of x, summed over columns; unlike 1 - fvu it
    forgives a constant offset. l0: mean number of active latents. dead: share of latents that no row
    activates. cosine: mean of cos(x - mean, x_hat - mean). downstream: a score on the reconstructions as a
    share of that on the features, NaN where that is 0; None where none was asked for.
    """

    fvu: float
    fvu_normalised: float
    explained_variance: float
    l0: float
    dead: float
    cosine: float
    downstream: float | None = None


@torch.no_grad()
def sae_quality(
    sae: SAE,
    features: Features,
    *,
    mean: Tensor | None = None,
    downstream: Callable[[Features], float] | None = None,
) -> Quality:
    """Read the quality of an SAE on features `[N, D]`, block by block.

    Args:
        mean: what variance is about `[D]`, for held-out features that of the training features; None: the
            mean of `features`.
        downstream: a score of features, such as a probe's accuracy; called with `features` and with their
            reconstructions, both to be read in blocks.

    Raises:
        InputError: every row equals the mean, so that there is no variance to explain.
    """
    n, _ = features_shape(features)
    centre = (mean_and_rms(features)[0] if mean is None else mean).double().cpu()
    errors, spread, z_errors, z_spread, cosines = _Moments(), _Moments(), _Moments(), _Moments(), 0.0
    by_sample = sae.settings.input_norm == "layer"
    fired = torch.zeros_like(sae.firing_counts)
    for _, block in row_blocks(features):
        x = block.to(sae.b_pre.device)
        x_hat, codes = sae.reconstruct(x)
        fired += codes.active_counts()
        exact, rebuilt = x.double().cpu(), x_hat.double().cpu()
        errors.add(exact - rebuilt)
        spread.add(exact - centre)
        if by_sample:  # else both spaces differ by one factor
            z, z_hat = (sae.normalise(some, like=x).double().cpu() for some in (x, x_hat))
            z_errors.add(z - z_hat)
            z_spread.add(z)
        cosines += float(torch.cosine_similarity(exact - centre, rebuilt - centre, dim=1).sum())
    if spread.squares == 0:
        raise InputError("FVU is undefined: every row of the features equals the mean")
    fvu = errors.squares / spread.squares
    return Quality(
        fvu=fvu,
        fvu_normalised=z_errors.squares / z_spread.variance() if by_sample else fvu,
        explained_variance=1 - errors.variance() / spread.variance()
        if spread.variance() > 0
        else float("nan"),
        l0=int(fired.sum()) / n,
        dead=float((fired == 0).double().mean()),
        cosine=cosines / n,
        downstream=None if downstream is None else _share(sae, features, downstream),
    )


def _share(sae: SAE, features: Features, score: Callable[[Features], float]) -> float:
    whole = score(features)
    return score(Reconstructions(sae, features)) / whole if whole else float("nan")


def fvu(sae: SAE, features: Features, mean_train: Tensor) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean_train|^2 over all rows `[N, D]`.

    Args:
        mean_train: mean of the training features `[D]`.

    Raises:
        InputError: every row equals the mean, so that there is no variance to explain.
    """
    unexplained, spread, mean = _Moments(), _Moments(), mean_train.double().cpu()
    for _, block in row_blocks(features):
        exact = block.double().cpu()
        unexplained.add(exact - sae.reconstruct(block.to(sae.b_pre.device))[0].cpu())
        spread.add(exact - mean)
    if spread.squares == 0:
        raise InputError("FVU is undefined: every row of the features equals the training mean")
    return unexplained.squares / spread.squares


class Reconstructions:
    """The reconstructions `[N, D]` of features, made block by block whenever they are read."""

    def __init__(self, sae: SAE, features: Features) -> None:
        self._sae, self._features = sae, features
        self._n, self.dim = features_shape(features)

    def __len__(self) -> int:
        return self._n

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """Consecutive blocks `[<=rows, D]` with the rows they cover."""
        for span, block in row_blocks(self._features, rows):
            yield span, self._sae.reconstruct(block.to(self._sae.b_pre.device))[0].cpu().numpy()


class _Moments:
    """Sum of squares of all rows given, about zero and about their mean, in float64."""

    def __init__(self) -> None:
        self.squares = 0.0
        self._sum: Tensor | float = 0.0
        self._n = 0

    def add(self, rows: Tensor) -> None:
        self.squares += float(rows.square().sum())
        self._sum = self._sum + rows.sum(dim=0)
        self._n += len(rows)

    def variance(self) -> float:
        """Sum of squares about the mean."""
        return self.squares - float(torch.as_tensor(self._sum).square().sum()) / self._n
