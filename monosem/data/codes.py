"""Sparse features held sparse: rows come out dense, some at a time, so the dense whole never exists."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.core.errors import InputError


@dataclass(frozen=True)
class Codes:
    """Features [N, D] that are zero but for `values` [N, k] in the columns `indices` int32 [N, k]; D = `dim`.

    Read like the dense tensor, by a slice or by row numbers, to the same bits: rows are float32, or float64
    where the values are. A column that a row holds twice counts with the sum of its values.

    Raises:
        InputError: shapes that differ, or an index outside 0..dim-1.
    """

    indices: Tensor
    values: Tensor
    dim: int

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.values.shape:
            raise InputError(
                "codes need indices and values of one shape [N, k], "
                f"got {tuple(self.indices.shape)}, {tuple(self.values.shape)}"
            )
        outside = (self.indices < 0) | (self.indices >= self.dim)
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            found = int(self.indices[row, column])
            raise InputError(f"code index {found} in row {row} is outside 0..{self.dim - 1}")

    @classmethod
    def from_blocks(cls, blocks: Iterable[Tensor]) -> Self:
        """What dense blocks [n, D] hold one after the other, largest magnitudes first.

        k is the number of non-zeros of the fullest row. Blocks are read one at a time.
        """
        width = 0

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal width
            for block in blocks:
                width = block.shape[1]
                k = max(1, int(block.count_nonzero(dim=1).max()))
                columns = block.abs().topk(k, dim=1).indices
                yield columns, block.gather(1, columns)

        indices, values = _joined(parts())
        return cls(indices, values, width)

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Tensor]], dim: int) -> Self:
        """Rows given as indices and values [n, k] one after the other; k need not be the same.

        k is the number of non-zeros of the fullest row; each part's come first in its rows.
        """
        return cls(*_joined(parts), dim)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some of the rows, dense [n, D]."""
        indices, values = self.indices[rows], self.values[rows].to(self.dtype)
        dense = torch.zeros(len(values), self.dim, dtype=self.dtype, device=self.device)
        return dense.scatter_add_(1, indices.long(), values)

    def take(self, rows: Tensor) -> Self:
        """Some of the rows, by number, held sparse."""
        return self._unchecked(self.indices[rows], self.values[rows])

    @property
    def shape(self) -> torch.Size:
        """(N, D)."""
        return torch.Size((len(self), self.dim))

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows that come out."""
        return torch.float64 if self.values.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where indices and values are, and rows come out."""
        return self.values.device

    @property
    def nbytes(self) -> int:
        """Bytes of indices and values."""
        return self.indices.nbytes + self.values.nbytes

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return self._unchecked(self.indices.to(device), self.values.to(device))

    def _unchecked(self, indices: Tensor, values: Tensor) -> Self:
        """Codes of these indices, which were looked at before: a look makes the host wait for a GPU."""
        codes = object.__new__(type(self))
        vars(codes).update(indices=indices, values=values, dim=self.dim)
        return codes


def _joined(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    found = []
    for indices, values in parts:
        k = max(1, int(values.count_nonzero(dim=1).max()))
        found.append((indices[:, :k].int(), values[:, :k]))
    k = max(values.shape[1] for _, values in found)
    # A narrower part is filled up with zeros for column 0, which they leave as it is.
    indices, values = (
        torch.cat([F.pad(part, (0, k - part.shape[1])) for part in column])
        for column in zip(*found, strict=True)
    )
    return indices, values
