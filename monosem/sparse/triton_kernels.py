"""The products of `monosem.sparse.kernels` for a GPU, in Triton; the plain ones for what does not fit."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from monosem.sparse import kernels
from monosem.sparse.kernels import topk

__all__ = ["available", "row_dots", "topk", "weighted_rows"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_COLUMNS = 256
"""Of a row, that one program sums."""


def available(device: torch.device) -> bool:
    """Whether Triton's kernels can run on this device."""
    return device.type == "cuda" and find_spec("triton") is not None


def weighted_rows(
    table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor, out: Tensor | None = None
) -> Tensor:
    """As `kernels.weighted_rows`."""
    if not _fits(table):
        return kernels.weighted_rows(table, index, offsets, weights)
    dim, bags = table.shape[1], len(offsets) - 1
    if out is None:
        out = torch.empty(bags, dim, dtype=table.dtype, device=table.device)
    programs = (bags, -(-dim // _COLUMNS))
    with torch.cuda.device(table.device):
        _programs().sum_rows[programs](table, index, offsets, weights.contiguous(), out, dim, WIDTH=_COLUMNS)
    return out


def row_dots(left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    """As `kernels.row_dots`."""
    if not (_fits(left) and _fits(right)) or not len(rows):
        return kernels.row_dots(left, rows, right, columns)
    dots = torch.empty(len(rows), dtype=left.dtype, device=left.device)
    with torch.cuda.device(left.device):
        _programs().dot_rows[(len(rows),)](left, rows, right, columns, dots, left.shape[1], WIDTH=_COLUMNS)
    return dots


def _fits(table: Tensor) -> bool:
    return available(table.device) and table.dtype in _FLOATS and table.is_contiguous() and table.numel() > 0


@cache
def _programs() -> Any:
    """The programs; Triton is imported when the first of them is asked for."""
    from monosem.sparse import triton_programs

    return triton_programs
