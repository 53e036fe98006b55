"""Where the training of an SAE starts: the scale of its inputs, its centre, its dictionary."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import torch_stream
from monosem.measures.blocks import BLOCK_ROWS, Features, features_shape, row_blocks
from monosem.measures.geometry import mean_and_rms
from monosem.sparse.sae import SparseAutoencoder

_WEISZFELD_STEPS = 50
_WEISZFELD_TOLERANCE = 1e-6


def initialise(sae: SparseAutoencoder, features: Features, seed: int) -> float:
    """Set input scale, b_pre and weights; return the variance of a normalised entry (mean square, centred).

    The dictionary is random unit vectors and the encoder its transpose (Gao et al. 2024, A.1).

    Raises:
        InputError: NaN or infinite features, or all rows equal after normalisation.
    """
    mean, rms = mean_and_rms(features)
    if sae.settings.input_norm == "rms":
        _refuse_constant(rms, mean)
        sae.input_scale.fill_(rms)
    normalised = _Normalised(sae, features)
    centre, spread = mean_and_rms(normalised)
    _refuse_constant(spread, centre)
    if sae.settings.b_pre_init == "geometric_median":
        centre = geometric_median(normalised, centre, spread * sae.dim**0.5)
    sae.b_pre.data.copy_(centre)
    directions = torch.randn(sae.n_latents, sae.dim, generator=torch_stream(seed, "sae", "init"))
    sae.decoder.data.copy_(torch.nn.functional.normalize(directions, dim=1))
    sae.encoder.data.copy_(sae.decoder.data)
    return spread**2


def geometric_median(features: Features, start: Tensor, scale: float) -> Tensor:
    """The point `[D]` whose summed distance to the rows is least, by Weiszfeld's iteration from `start`.

    Args:
        scale: typical distance of a row from `start`; steps below 1e-6 of it end the search.
    """
    median = start.double()
    for _ in range(_WEISZFELD_STEPS):
        weighted, weights = torch.zeros_like(median), 0.0
        for _, block in row_blocks(features):
            rows = block.cpu().double()
            # A row at the median itself would get infinite weight.
            inverse = 1 / (rows - median).norm(dim=1).clamp(min=1e-9 * scale)
            weighted += inverse @ rows
            weights += float(inverse.sum())
        moved = weighted / weights
        step, median = float((moved - median).norm()), moved
        if step <= _WEISZFELD_TOLERANCE * scale:
            break
    return median


class _Normalised:
    """Features as the SAE sees them, block by block, so that the whole set is never held twice."""

    def __init__(self, sae: SparseAutoencoder, features: Features) -> None:
        self._sae = sae
        self._features = features
        self._n_rows, self.dim = features_shape(features)

    def __len__(self) -> int:
        return self._n_rows

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        for span, block in row_blocks(self._features, rows):
            yield span, self._sae.normalise(block.cpu()).numpy()


def _refuse_constant(spread: float, mean: Tensor) -> None:
    # Rounding leaves a constant column of size m a spread of about m * 1e-7 in float32.
    if spread <= 1e-6 * float(mean.abs().max()) or spread == 0:
        raise InputError("all rows of the features are equal: there is nothing to reconstruct")
