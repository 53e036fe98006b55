"""Optimisers and the learning-rate schedule of contrastive pretraining."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "lars"]


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`: linear to 1 over `warmup` steps, then half a cosine.

    The first step already moves (factor 1 / warmup); the factor reaches 0 at `total`, one past the last step.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled per weight tensor (You et al. 2017), as SimCLR uses it.

    For a weight w with gradient g the direction is trust * (g + weight_decay * w), with
    trust = eta * |w| / (|g| + weight_decay * |w|), and 1 where either norm is zero. With `clip_lr`,
    trust is at most lr (the step is never larger than trust alone would make it). Tensors of one dimension
    (biases, norms) get plain momentum SGD: no trust ratio, no weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.9,
        eta: float = 0.02,
        clip_lr: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "eta": eta,
            "clip_lr": clip_lr,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; `closure` is called first when given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                direction = _lars_direction(parameter, parameter.grad, group)
                state = self.state[parameter]
                if "momentum_buffer" in state:
                    state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
                else:
                    state["momentum_buffer"] = direction.clone()
                parameter.sub_(state["momentum_buffer"], alpha=group["lr"])
        return loss


def _lars_direction(weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    if weight.ndim <= 1:
        return gradient
    weight_norm = torch.linalg.vector_norm(weight)
    gradient_norm = torch.linalg.vector_norm(gradient)
    trust = group["eta"] * weight_norm / (gradient_norm + group["weight_decay"] * weight_norm)
    if group["clip_lr"]:
        trust = (trust / group["lr"]).clamp(max=1.0)
    trust = torch.where((weight_norm > 0) & (gradient_norm > 0), trust, 1.0)
    direction: Tensor = trust * (gradient + group["weight_decay"] * weight)
    return direction


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels only, never biases and norms."""
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def lars(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """LARS with the paper's published settings (momentum 0.9, eta 0.02, clipped)."""
    return LARS(module.parameters(), lr, weight_decay)


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Module, float, float], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "lars": lars,
}
"""Optimisers by name, each called with (module, lr, weight_decay)."""
