"""The non-negative transformations of non-negative contrastive learning (NCL, Wang et al. 2024)."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NonlinearityName = Literal["relu", "rep_relu", "gelu", "sigmoid", "softplus", "exp", "leaky_relu"]


def rep_relu(x: Tensor) -> Tensor:
    """Reparameterised ReLU: the value of ReLU, the gradient of GELU; any shape.

    A unit that is off still learns, which keeps dimensions alive where plain ReLU lets them die (NCL, 4.1).
    """
    smooth = F.gelu(x)
    # The difference is exactly zero, so the value is ReLU's to the last bit and only the gradient is GELU's.
    return F.relu(x).detach() + (smooth - smooth.detach())


NONLINEARITIES: dict[NonlinearityName, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "rep_relu": rep_relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "exp": torch.exp,
    "leaky_relu": F.leaky_relu,
}
"""Elementwise functions by name. gelu and leaky_relu can be negative; the NCL paper compares them too."""
