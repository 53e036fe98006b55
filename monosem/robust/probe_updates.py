"""Optimiser steps for many linear problems stacked into one weight matrix.

P problems of K classes share the matrix [P*K, D] and the bias [P*K]. A step is given the gradient of the mean
loss in two factors, residual [B, P*K] and inputs [B, D] (already divided by B), so that the product can go
straight into the momentum buffer. Weight decay acts on weights, never on biases.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

_LARS_ETA = 0.02
_LARS_EPS = 1e-8


class Update(Protocol):
    """One step, in place, on the weight and bias the update was made for."""

    def __call__(self, residual: Tensor, inputs: Tensor, lr: float) -> None:
        """Step along residual [B, P*K] x inputs [B, D] at learning rate `lr`."""


def sgd(weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float) -> Update:
    """torch.optim.SGD: velocity = momentum velocity + gradient, weight -= lr velocity."""
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)

    def step(residual: Tensor, inputs: Tensor, lr: float) -> None:
        velocity.addmm_(residual.T, inputs, beta=momentum)
        if weight_decay:
            velocity.add_(weight, alpha=weight_decay)
        weight.add_(velocity, alpha=-lr)
        bias_velocity.mul_(momentum).add_(residual.mean(0))
        bias.add_(bias_velocity, alpha=-lr)

    return step


def lars(weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float) -> Update:
    """LARS (You et al. 2017): each problem's weight gradient is scaled by its trust ratio, clipped at `lr`.

    The ratio is eta |w| / (|g| + weight_decay |w|) with eta 0.02, as in the paper's published configuration
    (clip_lr; biases get plain momentum steps), and 1 while the weights or the gradient are zero.
    """
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    gradient = torch.empty_like(weight)

    def step(residual: Tensor, inputs: Tensor, lr: float) -> None:
        torch.mm(residual.T, inputs, out=gradient)
        weight_norm = weight.view(n_probes, -1).norm(dim=1)
        gradient_norm = gradient.view(n_probes, -1).norm(dim=1)
        ratio = _LARS_ETA * weight_norm / (gradient_norm + weight_decay * weight_norm + _LARS_EPS)
        trust = torch.where((weight_norm > 0) & (gradient_norm > 0), (ratio / lr).clamp(max=1.0), 1.0)
        gradient.add_(weight, alpha=weight_decay)
        gradient.view(n_probes, -1).mul_(trust.unsqueeze(1))
        velocity.mul_(momentum).add_(gradient)
        weight.add_(velocity, alpha=-lr)
        bias_velocity.mul_(momentum).add_(residual.mean(0))
        bias.add_(bias_velocity, alpha=-lr)

    return step


def adam(weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float) -> Update:
    """torch.optim.Adam with beta1 = momentum; not rotation-equivariant, unlike the other two."""
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": weight_decay}, {"params": [bias]}]
    optimizer = torch.optim.Adam(groups, betas=(momentum, 0.999))

    def step(residual: Tensor, inputs: Tensor, lr: float) -> None:
        weight.grad = residual.T @ inputs
        bias.grad = residual.mean(0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()

    return step


UPDATES: dict[str, Callable[[Tensor, Tensor, int, float, float], Update]] = {
    "sgd": sgd,
    "lars": lars,
    "adam": adam,
}
