"""The encoder's product by oneDNN: on some processors faster than the BLAS that PyTorch takes for it.

PyTorch has no public name for oneDNN's product in single precision: what is called here is its compiler's
own. So it is tried once, and done without where it is missing or gives anything else.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from monosem.sparse import kernels


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
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return _product(x, weight, bias) if fits and available() else kernels.encode(x, weight, bias, room)


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    operators: Any = torch.ops.mkldnn
    found: Tensor = operators._linear_pointwise(x, weight, bias, "none", [], "")
    return found
