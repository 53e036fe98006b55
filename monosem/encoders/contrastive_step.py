"""One step of contrastive training: views -> loss -> gradients -> moved weights.

Nothing in a step waits for the device, and no Python runs per image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from monosem.core.distributed import World
from monosem.encoders.backbones import Encoder

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of the two views' projector outputs, each [N, D]."""

# Synchronised norms move alike everywhere. The option has another name since torch 2.13.
_SYNC = "forward_sync_buffers"
_BUFFERS_STAY: dict[str, Any] = {
    _SYNC if _SYNC in signature(DistributedDataParallel).parameters else "broadcast_buffers": False
}


class ContrastiveStep:
    """Calling it with views and a learning rate moves the encoder once.

    With `parts` > 1 the batch goes through the encoder in that many pieces, twice: once to know all outputs,
    hence the loss over the whole batch and its gradient in every output, and once to carry those gradients
    back (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). The
    negatives are those of the whole batch; batch norm sees one piece at a time.

    Args:
        encoder: on its device; among several processes, with synchronised batch norms.
        optimizer: of the encoder's parameters.
        loss_of: the objective.
        parts: pieces of a batch.
        bf16: whether the encoder runs under bfloat16 autocast.
        compiled: whether torch.compile prepares it.
        world: the processes that train together.
    """

    def __init__(
        self,
        encoder: Encoder,
        optimizer: torch.optim.Optimizer,
        loss_of: Loss,
        *,
        parts: int,
        bf16: bool,
        compiled: bool,
        world: World,
    ) -> None:
        self._encoder = encoder
        self._optimizer = optimizer
        self._loss_of = loss_of
        self._parts = parts
        self._bf16 = bf16
        self._device = world.device
        self._ddp = None
        forward: Callable[[Tensor], Tensor] = encoder
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            self._ddp = DistributedDataParallel(encoder, ids, **_BUFFERS_STAY)
            forward = self._ddp
        self._forward = torch.compile(forward) if compiled else forward

    def __call__(self, views: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Normalised views [2n, C, H, W], first views first -> detached loss [] and outputs z [2n, D]."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        loss, z = self._backward(views) if self._parts == 1 else self._backward_by_parts(views)
        self._optimizer.step()
        return loss.detach(), z.detach()

    def _backward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        z = self._outputs(views)
        loss = self._loss_of(*z.chunk(2))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, z

    def _backward_by_parts(self, views: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(*(half.chunk(self._parts) for half in views.chunk(2)), strict=True)
        parts = [torch.cat(pair) for pair in pairs]
        with torch.no_grad(), _still_norms(self._encoder):
            outputs = [self._outputs(part) for part in parts]
        first, second = zip(*(z.chunk(2) for z in outputs), strict=True)
        z0, z1 = (torch.cat(half).requires_grad_() for half in (first, second))
        loss = self._loss_of(z0, z1)
        loss.backward()  # type: ignore[no-untyped-call]
        assert z0.grad is not None
        assert z1.grad is not None
        gradients = zip(*(grad.chunk(self._parts) for grad in (z0.grad, z1.grad)), strict=True)
        for index, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            with self._unsynchronised() if index < len(parts) - 1 else nullcontext():
                self._outputs(part).backward(torch.cat(gradient))  # type: ignore[no-untyped-call]
        return loss, torch.cat([z0, z1])

    def _outputs(self, views: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return self._forward(views)

    def _unsynchronised(self) -> Any:
        return self._ddp.no_sync() if self._ddp is not None else nullcontext()


@contextmanager
def _still_norms(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch, as in training, but keep it out of their running statistics."""
    counting = [
        child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats
    ]
    for norm in counting:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in counting:
            norm.track_running_stats = True
