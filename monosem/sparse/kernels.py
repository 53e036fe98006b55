"""The operations of an SAE that are no dense matrix product: the k largest, and products with sparse codes.

Each works in plain PyTorch, on any device. On a CPU a compiled operator (`operators`), on a GPU Triton
(`triton_kernels`), do the same faster where they can be had.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_ENTRIES_AT_ONCE = 2048
"""Of gathered rows, so that both operands of their dot products stay in the cache."""


def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
    """x @ weight^T + bias, of `[B, D]`, `[L, D]` and `[L]`: `[B, L]`, perhaps in `room`."""
    return torch.addmm(bias, x, weight.T, out=room)


def topk_relu(values: Tensor, k: int) -> Tensor:
    """`values` `[N, L]` with all but the k largest of each row, and all negative ones, set to zero.

    Never more than k non-zeros a row: among equal values at the k-th place some are dropped.
    """
    if k >= values.shape[1]:
        return values.relu()
    codes = values.relu() * (values >= kth_largest(values.detach(), k))
    crowded = codes.count_nonzero(dim=1) > k
    if crowded.any():
        codes[crowded] = _topk_relu_by_index(values[crowded], k)
    return codes


def topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row of `[N, L]` and their columns, both `[N, k]`, in no order."""
    width = values.shape[1]
    if k >= width:
        return values, torch.arange(width, device=values.device).expand_as(values)
    # Among the k groups with the largest maxima are all groups that hold one of the k largest values.
    size = math.isqrt(width // k)
    n_groups = width // size
    if size < 2:
        found = values.topk(k, dim=1, sorted=False)
        return found.values, found.indices
    rest = torch.arange(n_groups * size, width, device=values.device).expand(len(values), -1)
    # Group i is the columns i, i + n_groups, ...: maxima run over whole vectors of memory.
    maxima = values[:, : n_groups * size].view(len(values), size, n_groups).amax(dim=1)
    groups = maxima.topk(min(k, n_groups), dim=1, sorted=False).indices
    members = torch.arange(size, device=values.device)[:, None] * n_groups
    columns = torch.cat([(groups[:, None] + members).flatten(1), rest], dim=1)
    candidates = values.gather(1, columns).topk(k, dim=1, sorted=False)
    return candidates.values, columns.gather(1, candidates.indices)


def weighted_rows(
    table: Tensor,
    index: Tensor,
    offsets: Tensor,
    weights: Tensor,
    out: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """Sums of weighted rows: out[n] = sum of weights[e] table[index[e]] for offsets[n] <= e < offsets[n + 1].

    table `[M, D]`; index and weights `[E]`; offsets `[n + 1]`, from 0 to E; the result is `[n, D]`, and may
    be written into `out`: memory that is new to the process costs more than the sums of a few rows. With a
    `beta` the sums are added to beta times what `out` holds, there; without `out` there is nothing to add to.
    """
    sums = F.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
    return sums if out is None or not beta else out.mul_(beta).add_(sums)


def row_dots(left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    """Dot products left[rows[e]] . right[columns[e]] of `[B, D]` and `[L, D]`: `[E]`."""
    dots = torch.empty(len(rows), dtype=left.dtype, device=left.device)
    for start in range(0, len(rows), _ENTRIES_AT_ONCE):
        span = slice(start, start + _ENTRIES_AT_ONCE)
        torch.sum(left[rows[span]].mul_(right[columns[span]]), dim=1, out=dots[span])
    return dots


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest entry of each row `[N, 1]`."""
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    # numpy partitions with AVX-512, some ten times faster than torch's CPU topk.
    place = values.shape[1] - k
    partitioned = np.partition(values.numpy(), place, axis=1)[:, place : place + 1]
    return torch.from_numpy(np.ascontiguousarray(partitioned))


def _topk_relu_by_index(values: Tensor, k: int) -> Tensor:
    largest, indices = values.topk(k, dim=1)
    return torch.zeros_like(values).scatter_(1, indices, largest.relu())
