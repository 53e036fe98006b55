"""Optimiser steps for many linear problems stacked into one weight matrix.

P problems of K classes share the matrix [D, P*K] and the bias [P*K]. A step is given the gradient of each
sample's loss with respect to its outputs, residual [B, P*K], and the inputs they were made of, so that their
product can go straight into the momentum buffer. Weight decay acts on weights, never on biases.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from monosem.core.checkpoints import optimizer_tensors, restore_optimizer
from monosem.robust.probe_inputs import ScaledInputs

_LARS_ETA = 0.02
_LARS_EPS = 1e-8


class Update(Protocol):
    """Steps, in place, on the weight and bias the update is made for, and what it remembers between them."""

    def __init__(
        self, weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float
    ) -> None:
        """An update of weight [D, P*K] and bias [P*K] that has made no step."""

    def __call__(self, residual: Tensor, inputs: ScaledInputs, lr: float) -> None:
        """Step along the mean gradient of residual [B, P*K] and B inputs at learning rate `lr`."""

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered, by name."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Remember this instead."""


class _Momentum:
    """Moves weight and bias along velocities that a step has brought up to date."""

    def __init__(
        self, weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float
    ) -> None:
        self.weight, self.bias, self.n_probes = weight, bias, n_probes
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity, self.bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)

    def move(self, residual: Tensor, lr: float) -> None:
        """The weight along its velocity; the bias along its own, which gets its gradient here."""
        self.weight.add_(self.velocity, alpha=-lr)
        self.bias_velocity.mul_(self.momentum).add_(residual.mean(0))
        self.bias.add_(self.bias_velocity, alpha=-lr)

    def tensors(self) -> dict[str, Tensor]:
        return {"velocity": self.velocity, "bias_velocity": self.bias_velocity}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.velocity.copy_(tensors["velocity"])
        self.bias_velocity.copy_(tensors["bias_velocity"])


class Sgd(_Momentum):
    """torch.optim.SGD: velocity = momentum velocity + gradient, weight -= lr velocity."""

    def __call__(self, residual: Tensor, inputs: ScaledInputs, lr: float) -> None:
        """See `Update`."""
        self.velocity = inputs.gradient(residual, self.velocity, beta=self.momentum)
        if self.weight_decay:
            self.velocity.add_(self.weight, alpha=self.weight_decay)
        self.move(residual, lr)


class Lars(_Momentum):
    """LARS (You et al. 2017): each problem's weight gradient is scaled by its trust ratio, clipped at `lr`.

    The ratio is eta |w| / (|g| + weight_decay |w|) with eta 0.02, as in the paper's published configuration
    (clip_lr; biases get plain momentum steps), and 1 while the weights or the gradient are zero.
    """

    _room: Tensor | None = None
    """The last gradient's memory, so that no step allocates it."""

    def __call__(self, residual: Tensor, inputs: ScaledInputs, lr: float) -> None:
        """See `Update`."""
        gradient = self._room = inputs.gradient(residual, self._room)
        weight_norm, gradient_norm = (
            self._by_problem(some).norm(dim=(0, 2)) for some in (self.weight, gradient)
        )
        ratio = _LARS_ETA * weight_norm / (gradient_norm + self.weight_decay * weight_norm + _LARS_EPS)
        trust = torch.where((weight_norm > 0) & (gradient_norm > 0), (ratio / lr).clamp(max=1.0), 1.0)
        gradient.add_(self.weight, alpha=self.weight_decay)
        self._by_problem(gradient).mul_(trust[:, None])
        self.velocity.mul_(self.momentum).add_(gradient)
        self.move(residual, lr)

    def _by_problem(self, of_outputs: Tensor) -> Tensor:
        return of_outputs.view(len(of_outputs), self.n_probes, -1)


class Adam:
    """torch.optim.Adam with beta1 = momentum; not rotation-equivariant, unlike the other two."""

    def __init__(
        self, weight: Tensor, bias: Tensor, n_probes: int, momentum: float, weight_decay: float
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [weight], "weight_decay": weight_decay},
            {"params": [bias]},
        ]
        self.weight, self.bias = weight, bias
        self.optimizer = torch.optim.Adam(groups, betas=(momentum, 0.999))

    def __call__(self, residual: Tensor, inputs: ScaledInputs, lr: float) -> None:
        """See `Update`."""
        self.weight.grad = inputs.gradient(residual, self.weight.grad)
        self.bias.grad = residual.mean(0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """See `Update`."""
        return optimizer_tensors(self.optimizer)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See `Update`."""
        restore_optimizer(self.optimizer, tensors)


UPDATES: dict[str, type[Update]] = {"sgd": Sgd, "lars": Lars, "adam": Adam}
