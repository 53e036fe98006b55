"""The principal axes of a feature set, which ridge regression and the spectrum controls stand on."""

from typing import NamedTuple

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.robust.probe import ROWS_AT_ONCE, FeatureScale, check_finite, working_dtype

_SMALLEST_SHARE = 1e-12
"""Of the largest variance; what lies below is rounding of float32 features."""


class PrincipalAxes(NamedTuple):
    """center [D]; variances [r] in descending order, float64; directions [D, r], orthonormal columns."""

    center: Tensor
    variances: Tensor
    directions: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Coordinates [N, r] of features [N, D] along the axes.

        Raises:
            InputError: the features have another dimension.
        """
        if features.shape[-1] != len(self.center):
            raise InputError(f"axes of {len(self.center)} dimensions got features of {features.shape[-1]}")
        return torch.cat(
            [(block - self.center) @ self.directions for block in torch.split(features, ROWS_AT_ONCE)]
        )


def principal_axes(features: Tensor) -> PrincipalAxes:
    """Eigenvectors of the covariance (over N, not N - 1) of features [N, D], accumulated in float64.

    Works on whichever of the D x D covariance and the N x N Gram matrix is smaller. Directions without
    variance are left out, so r <= min(N - 1, D).

    Raises:
        InputError: a NaN or infinite value, or all samples are equal.
    """
    check_finite(features)
    n, dim = features.shape
    center = FeatureScale.fit(features).mean
    if dim <= n:
        covariance = features.new_zeros(dim, dim, dtype=torch.float64)
        for block in torch.split(features, ROWS_AT_ONCE):
            centred = (block - center).double()
            covariance.addmm_(centred.T, centred, alpha=1 / n)
        variances, directions = torch.linalg.eigh(covariance)
    else:
        centred = (features - center).double()
        variances, left = torch.linalg.eigh(centred @ centred.T / n)
        directions = centred.T @ (left / (n * variances.clamp(min=torch.finfo(variances.dtype).tiny)).sqrt())
    kept = variances > _SMALLEST_SHARE * variances[-1]
    variances, directions = variances[kept].flip(0), directions[:, kept].flip(1)
    return PrincipalAxes(center, variances, directions.to(working_dtype(features)))
