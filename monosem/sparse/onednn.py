"""The encoder's product by oneDNN: on some processors faster than the BLAS that PyTorch takes for it.

PyTorch has no public name for oneDNN's product in single precision: what is called here is its compiler's
own. So it is tried once, and done without where it is missing or gives anything else.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from monosem.sparse import kernels

_OUTPUTS_AT_ONCE = 6 * 2**20
"""24 MiB, which oneDNN puts where none were: from 32 MiB on the system gives such memory anew each time."""


@cache
def available() -> bool:
    """Whether oneDNN's product can be had, and is the product."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    x, weight = torch.eye(3, 5), torch.arange(20.0).view(4, 5)
    try:
        return torch.equal(_product(x, weight, torch.ones(4)), x @ weight.T + 1)
    except (AttributeError, RuntimeError, TypeError):  # no such operator, or one that takes something else
        return False


def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
    """As `kernels.encode`; what oneDNN was not asked for goes the plain way."""
    if x.device.type != "cpu" or not (x.dtype == weight.dtype == torch.float32) or not available():
        return kernels.encode(x, weight, bias, room)
    rows = max(1, _OUTPUTS_AT_ONCE // len(weight))
    if len(x) <= rows:
        return _product(x, weight, bias)
    outputs = x.new_empty(len(x), len(weight)) if room is None else room
    for part, into in zip(torch.split(x, rows), torch.split(outputs, rows), strict=True):
        into.copy_(_product(part, weight, bias))
    return outputs


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    operators: Any = torch.ops.mkldnn
    found: Tensor = operators._linear_pointwise(x, weight, bias, "none", [], "")
    return found
