"""The one operation of a TopK SAE that is not a matrix product, fast on the CPU."""

import numpy as np
import torch
from torch import Tensor


def topk_relu(values: Tensor, k: int) -> Tensor:
    """`values` `[N, L]` with all but the k largest of each row, and all negative ones, set to zero.

    Never more than k non-zeros a row: among equal values at the k-th place some are dropped.
    """
    if k >= values.shape[1]:
        return values.relu()
    codes = values.relu() * (values >= _kth_largest(values.detach(), k))
    crowded = codes.count_nonzero(dim=1) > k
    if crowded.any():
        codes[crowded] = _topk_relu_by_index(values[crowded], k)
    return codes


def _kth_largest(values: Tensor, k: int) -> Tensor:
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
