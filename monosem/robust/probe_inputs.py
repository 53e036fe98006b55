"""A batch of scaled features as probes multiply with it: dense, or as the sparse codes it was made of.

Scaled codes are not sparse: the centre that is taken from every sample fills the zeros. It is one more row
of the products instead, whose logits are taken from those of all samples and whose residual is minus their
sum.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from monosem.data.codes import Codes
from monosem.sparse.batch_codes import Places, SparseCodes


class ScaledInputs(Protocol):
    """B scaled samples of D features, for linear maps with O outputs."""

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """inputs @ weight + bias, of `[D, O]` and `[O]`: `[B, O]`."""

    def gradient(self, residual: Tensor, room: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """beta room + inputs^T @ residual / B, of room `[D, O]` and residual `[B, O]`; perhaps in `room`."""


@dataclass(frozen=True)
class DenseInputs:
    """All entries `[B, D]`."""

    x: Tensor

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """See `ScaledInputs`."""
        return torch.addmm(bias, self.x, weight)

    def gradient(self, residual: Tensor, room: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """See `ScaledInputs`."""
        if room is None:
            room = self.x.new_empty(self.x.shape[1], residual.shape[1])
        return room.addmm_(self.x.T, residual, beta=beta, alpha=1 / len(self.x))


@dataclass(frozen=True)
class SparseInputs:
    """The non-zeros of samples that were scaled, not centred, and of their centre as the last row."""

    codes: SparseCodes

    @classmethod
    def scaled(cls, rows: Codes, mean: Tensor, rms: float, form: type[SparseCodes]) -> "SparseInputs":
        """What (rows - mean) / rms is, for mean `[D]`."""
        columns = torch.cat([rows.indices.flatten().long(), torch.arange(rows.dim, device=mean.device)])
        values = torch.cat([rows.values.flatten().to(mean.dtype), mean]).div_(rms)
        held = values != 0  # rows are filled up to one length, and some dimensions are never active
        ends = torch.arange(len(rows) + 1, device=mean.device) * rows.values.shape[1]
        before = torch.cat([ends.new_zeros(1), held.cumsum(0)])
        offsets = torch.cat([before[ends], before[-1:]])
        return cls(form(values[held], Places(columns[held], offsets, rows.dim)))

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """See `ScaledInputs`."""
        (sums,) = self.codes.decode(bias, weight, [len(weight)])
        return sums[:-1].sub_(sums[-1] - bias)

    def gradient(self, residual: Tensor, room: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """See `ScaledInputs`."""
        pushes = torch.cat([residual, -residual.sum(dim=0, keepdim=True)]).div_(len(residual))
        return self.codes.outer([pushes], [self.codes.places.n_latents], room, beta)
