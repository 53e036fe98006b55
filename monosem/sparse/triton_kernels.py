"""The products of `monosem.sparse.kernels` for a GPU, in Triton; the plain ones for what does not fit."""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from monosem.core.errors import first_line
from monosem.sparse import kernels
from monosem.sparse.kernels import topk

__all__ = ["available", "row_dots", "topk", "weighted_rows"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_ENTRIES = 8
"""Whose rows one program reads at once."""
_WARP_BYTES = 512
"""Of a row, that one warp reads at once: 16 a thread."""
_SUM_WARPS, _DOT_WARPS = 2, 4
"""Of a program: those of sums share a row, those of dots share the entries."""


def available(device: torch.device) -> bool:
    """Whether Triton's programs run on this device; the first call there compiles them."""
    return device.type == "cuda" and _run_on(device)


@cache
def _run_on(device: torch.device) -> bool:
    """Whether the programs can be compiled and run there; where Triton fails to, a warning says why."""
    if find_spec("triton") is None:
        return False
    table = torch.ones(2, 16, device=device)
    entries = torch.arange(2, device=device)
    try:
        _sum_rows(table, entries, entries, table[0, :1], table.new_empty(1, 16), 0.0)
        _dot_rows(table, entries, table, entries).tolist()  # waits for what was only begun
    except Exception as error:  # what compilers and drivers raise has no common class
        warnings.warn(
            f"Triton's programs do not run on {device} ({first_line(error)}); plain PyTorch is used instead",
            stacklevel=3,
        )
        return False
    return True


def weighted_rows(
    table: Tensor,
    index: Tensor,
    offsets: Tensor,
    weights: Tensor,
    out: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """As `kernels.weighted_rows`."""
    if not _fits(table) or (out is not None and not out.is_contiguous()):
        return kernels.weighted_rows(table, index, offsets, weights, out, beta)
    if out is None:
        out, beta = table.new_empty(len(offsets) - 1, table.shape[1]), 0.0
    return _sum_rows(table, index, offsets, weights, out, beta)


def row_dots(left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    """As `kernels.row_dots`."""
    if not (_fits(left) and _fits(right)) or not len(rows):
        return kernels.row_dots(left, rows, right, columns)
    return _dot_rows(left, rows, right, columns)


def _sum_rows(
    table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, beta: float
) -> Tensor:
    width = _SUM_WARPS * _WARP_BYTES // table.element_size()
    programs = (len(offsets) - 1, -(-table.shape[1] // width))
    with torch.cuda.device(table.device):
        _programs().sum_rows[programs](
            table,
            index.contiguous(),
            offsets.contiguous(),
            weights.contiguous(),
            out,
            float(beta),
            table.shape[1],
            ENTRIES=_ENTRIES,
            WIDTH=width,
            num_warps=_SUM_WARPS,
            enable_fp_fusion=True,
        )
    return out


def _dot_rows(left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    dots = left.new_empty(len(rows))
    with torch.cuda.device(left.device):
        _programs().dot_rows[(-(-len(rows) // _ENTRIES),)](
            left,
            rows.contiguous(),
            right,
            columns.contiguous(),
            dots,
            len(rows),
            left.shape[1],
            ENTRIES=_ENTRIES,
            WIDTH=_WARP_BYTES // left.element_size(),
            num_warps=_DOT_WARPS,
            enable_fp_fusion=True,
        )
    return dots


def _fits(table: Tensor) -> bool:
    return available(table.device) and table.dtype in _FLOATS and table.is_contiguous() and table.numel() > 0


@cache
def _programs() -> Any:
    """The programs; Triton is imported when the first of them is asked for."""
    from monosem.sparse import triton_programs

    return triton_programs
