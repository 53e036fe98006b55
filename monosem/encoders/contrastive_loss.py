"""NT-Xent (SimCLR, Chen et al. 2020, eq. 1) and its non-negative form (NCL, Wang et al. 2024, eq. 5).

Among several processes every view meets the views of all of them; the loss is the mean over the own rows.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.core.distributed import gathered_rows
from monosem.core.nonlinearities import NONLINEARITIES, NonlinearityName

NonnegativeOn = Literal["raw", "normalised"]
"""What the nonlinearity is applied to: the projector's outputs, or the same scaled to unit length."""

_NO_DIRECTION = 1e-6


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of finding each view's partner among the other 2N - 1 views, by cosine similarity.

    z0, z1 [N, D]: outputs for the two views, row by row of the same images -> scalar. Computed in float32
    for lower precisions, also under autocast. Features that tell nothing apart give log(2N - 1).
    """
    return _nt_xent_of_unit_rows(unit_rows(_at_least_float32(torch.cat([z0, z1]))), temperature)


def nonnegative_nt_xent(
    z0: Tensor, z1: Tensor, temperature: float, nonlinearity: NonlinearityName, on: NonnegativeOn
) -> Tensor:
    """NT-Xent of the non-negative features sigma(z) -> scalar; shapes and precision as in `nt_xent`.

    `on` says whether sigma sees z itself or z scaled to unit length; the result is scaled to unit length
    in both cases. For sigma with sigma(cz) = c sigma(z), c > 0, both have the same value.
    """
    z = _at_least_float32(torch.cat([z0, z1]))
    return _nt_xent_of_unit_rows(nonnegative_unit_rows(z, nonlinearity, on), temperature)


def nonnegative_unit_rows(z: Tensor, nonlinearity: NonlinearityName, on: NonnegativeOn) -> Tensor:
    """sigma(z) or sigma(z / |z|), scaled to unit length: z [N, D] -> [N, D]."""
    inputs = unit_rows(z) if on == "normalised" else z
    if nonlinearity == "exp":
        # A constant factor per row vanishes in the scaling; taking it out first keeps exp in range.
        inputs = inputs - inputs.detach().amax(dim=1, keepdim=True)
    return unit_rows(NONLINEARITIES[nonlinearity](inputs))


def unit_rows(z: Tensor) -> Tensor:
    """Rows scaled to unit Euclidean length: z [N, D] -> [N, D].

    A row of (almost) zero length has no direction and stays as it is, so its gradient stays moderate
    instead of being multiplied by one over a tiny number.
    """
    length_N1 = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / torch.where(length_N1 > _NO_DIRECTION, length_N1, 1.0)


def _nt_xent_of_unit_rows(u: Tensor, temperature: float) -> Tensor:
    with torch.autocast(u.device.type, enabled=False):
        everything, first = gathered_rows(u)
        own = first + torch.arange(len(u), device=u.device)
        columns = torch.arange(len(everything), device=u.device)
        logits = (u @ everything.T / temperature).masked_fill(columns == own.unsqueeze(1), -torch.inf)
        return F.cross_entropy(logits, own.roll(len(u) // 2))


def _at_least_float32(z: Tensor) -> Tensor:
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
