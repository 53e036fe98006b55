"""Where the training of an SAE starts: the scale of its inputs, its centre, its dictionary."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import torch_stream
from monosem.measures.blocks import BLOCK_ROWS, Features, features_shape, row_blocks
from monosem.measures.geometry import mean_and_rms
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings

_WEISZFELD_STEPS = 50
_WEISZFELD_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Start:
    """What every SAE on the same features begins with.

    mean: of the features `[D]`. scale: what they are divided by. centre: where b_pre begins `[D]`, in
    normalised space. variance: mean square of a normalised, centred entry. sample: some normalised rows.
    """

    mean: Tensor
    scale: float
    centre: Tensor
    variance: float
    sample: Tensor


def starting_point(features: Features, settings: SAESettings) -> Start:
    """Read the features `[N, D]` for what training on them begins with.

    Raises:
        InputError: NaN or infinite features, or all rows equal after normalisation.
    """
    mean, rms = mean_and_rms(features)
    scale = 1.0
    if settings.input_norm == "rms":
        _refuse_constant(rms, mean)
        scale = rms
    normalised = _Normalised(features, settings, scale)
    # Without another look, unless every sample is normalised by itself.
    centre, spread = (
        mean_and_rms(normalised) if settings.input_norm == "layer" else (mean / scale, rms / scale)
    )
    _refuse_constant(spread, centre)
    if settings.b_pre_init == "geometric_median":
        centre = geometric_median(normalised, centre, spread * normalised.dim**0.5)
    _, sample = next(iter(row_blocks(normalised)))
    return Start(mean, scale, centre, spread**2, sample)


def initialise(sae: SAE, start: Start, seed: int) -> None:
    """Set input scale, b_pre and weights, and the threshold where there is one.

    The dictionary is random unit vectors and the encoder its transpose (Gao et al. 2024, A.1). A threshold
    begins where k latents are active on average.
    """
    sae.input_scale.fill_(start.scale)
    sae.b_pre.data.copy_(start.centre)
    directions = torch.randn(sae.n_latents, sae.dim, generator=torch_stream(seed, "sae", "init"))
    sae.decoder.data.copy_(torch.nn.functional.normalize(directions, dim=1))
    sae.encoder.data.copy_(sae.decoder.data)
    if sae.threshold is not None:
        rows = start.sample.to(sae.b_pre.dtype) - sae.b_pre

        def encode(some: slice, latents: slice) -> Tensor:
            return torch.addmm(sae.encoder_bias[latents], rows[some], sae.encoder[latents].T)

        begin = sae.activation.first_threshold(encode, len(rows), sae.n_latents, sae.k)
        sae.threshold.data.copy_(begin.clamp(min=0))


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

    def __init__(self, features: Features, settings: SAESettings, scale: float) -> None:
        self._features = features
        self._n_rows, self.dim = features_shape(features)
        self._sae = SAE(self.dim, SAESettings(n_latents=1, k=1, input_norm=settings.input_norm))
        self._sae.input_scale.fill_(scale)

    def __len__(self) -> int:
        return self._n_rows

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        for span, block in row_blocks(self._features, rows):
            yield span, self._sae.normalise(block.cpu()).numpy()


def _refuse_constant(spread: float, mean: Tensor) -> None:
    # Rounding leaves a constant column of size m a spread of about m * 1e-7 in float32.
    if spread <= 1e-6 * float(mean.abs().max()) or spread == 0:
        raise InputError("all rows of the features are equal: there is nothing to reconstruct")
