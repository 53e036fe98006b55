"""Batch normalisation over the batches of all processes, so that several train like one."""

import torch
from torch import Tensor, nn

from monosem.core.distributed import summed, world_size


class _SyncBatchNorm(nn.BatchNorm2d):
    """What torch's SyncBatchNorm is on a GPU, for processes on CPUs: plain tensor arithmetic."""

    # Compiled into a graph, the exchanges would wait for each other for ever.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = world_size() * x.numel() / x.shape[1]
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_1C11 = summed(rows.sum(dim=(0, 2, 3), keepdim=True)) / count
        centred = rows - mean_1C11
        variance_1C11 = summed(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        if self.track_running_stats:
            self._move_running(mean_1C11.flatten(), variance_1C11.flatten() * count / (count - 1))
        normal = centred * torch.rsqrt(variance_1C11 + self.eps)
        return (normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _move_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Make every batch norm inside the module work over all processes; its parameters and buffers stay."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = _SyncBatchNorm  # the same parameters and buffers, another forward
