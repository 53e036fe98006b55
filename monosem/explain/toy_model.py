"""Toy models of superposition: more concepts than dimensions (4.2; Elhage et al. 2022).

A sample has n concepts, each zero with probability S (the sparsity) and else uniform on [0, 1]. A model keeps
m dimensions h = W x and rebuilds x from them as W^T h + b, through a ReLU or not; errors of a concept count
by its importance. With a ReLU and enough sparsity it keeps more concepts than it has dimensions, which is
superposition. All models of a map are trained as one batched problem, on the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import torch_stream
from monosem.core.settings import Settings

Output = Literal["relu", "linear"]


class ToySettings(Settings):
    """Sizes of the world and of the models, and how they are trained."""

    n_concepts: int = Field(40, ge=2)
    n_dims: int = Field(20, ge=1)
    importance: float = Field(0.9, gt=0, le=1)
    """The importance of the concept i is this to the power of i."""
    batch_size: int = Field(256, ge=1)
    steps: int = Field(3000, ge=1)
    lr: float = Field(1e-2, gt=0)
    """Of Adam; it falls to zero along a half cosine."""

    @model_validator(mode="after")
    def _has_more_concepts(self) -> "ToySettings":
        if self.n_dims > self.n_concepts:
            raise ValueError(f"n_dims ({self.n_dims}) may not exceed n_concepts ({self.n_concepts})")
        return self


@dataclass(frozen=True)
class ToyModels:
    """Models side by side. weight: [M, m, n]. bias: [M, n]. loss: [M], of the last tenth of the training."""

    weight: Tensor
    bias: Tensor
    loss: Tensor

    def features(self, samples: Tensor) -> Tensor:
        """Hidden features h = W x of samples [N, n] or [M, N, n]: [M, N, m]."""
        return samples @ self.weight.mT


def train_toys(
    settings: ToySettings,
    sparsity: Tensor,
    seeds: Tensor,
    outputs: Sequence[Output],
    watch: Watch = SILENT,
) -> ToyModels:
    """Train M models at once.

    sparsity, seeds, outputs: of each model, [M]. Models of one seed start from the same weights and see the
    same draws, which their own sparsity thins out: what is zero at S is zero at every larger S.
    """
    m, n, models = settings.n_dims, settings.n_concepts, len(outputs)
    distinct, which = torch.unique(seeds, return_inverse=True)
    streams = [torch_stream(int(seed), "toy") for seed in distinct]
    start = torch.stack([torch.randn(m, n, generator=stream) for stream in streams]) / n**0.5
    weight = start[which].clone().requires_grad_()
    bias = torch.zeros(models, n, requires_grad=True)
    importance = settings.importance ** torch.arange(n)
    rectified = torch.tensor([output == "relu" for output in outputs])[:, None, None]
    optimizer = torch.optim.Adam([weight, bias], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    losses = torch.zeros(models)
    counted = max(1, settings.steps // 10)
    for step in range(settings.steps):
        uniform = torch.stack([torch.rand(settings.batch_size, n, generator=stream) for stream in streams])
        x = thinned(uniform[which], sparsity[:, None, None])
        rebuilt = (x @ weight.mT) @ weight + bias[:, None]
        rebuilt = torch.where(rectified, rebuilt.relu(), rebuilt)
        loss = ((x - rebuilt).square() * importance).sum(-1).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step >= settings.steps - counted:
            losses += loss.detach() / counted
        if step % 100 == 99:
            watch.progress(step + 1, settings.steps, loss=float(loss.detach().mean()))
    return ToyModels(weight.detach(), bias.detach(), losses)


def top_map(n_concepts: int, n_dims: int) -> ToyModels:
    """The exact map without superposition: each dimension is one of the most important concepts."""
    weight = torch.eye(n_dims, n_concepts)[None]
    return ToyModels(weight, torch.zeros(1, n_concepts), torch.full((1,), torch.nan))


def thinned(uniform: Tensor, sparsity: Tensor | float) -> Tensor:
    """From uniform draws on [0, 1]: zero with probability `sparsity`, else uniform on [0, 1]."""
    return (uniform - sparsity).relu() / (1 - sparsity)


def toy_samples(n: int, n_concepts: int, sparsity: float, seed: int) -> tuple[Tensor, Tensor]:
    """Samples [n, n_concepts] and their labels, the largest concept; one that is all zero gets any label."""
    stream = torch_stream(seed, "toy_samples")
    x = thinned(torch.rand(n, n_concepts, generator=stream), sparsity)
    anything = torch.randint(n_concepts, (n,), generator=stream)
    return x, torch.where(x.any(1), x.argmax(1), anything)


@dataclass(frozen=True)
class Superposition:
    """What models make of each concept, [M, n].

    norm: |W_i|, near 1 for a concept that is kept. interference: sum over the others of (W_i/|W_i| . W_j)^2.
    dimensionality: |W_i|^2 over the same sum with W_i itself in it: 1 for a dimension of its own, 1/2 in an
    antipodal pair, 0 for a concept that is not kept.
    """

    norm: Tensor
    interference: Tensor
    dimensionality: Tensor


def superposition(weight: Tensor) -> Superposition:
    """How models [M, m, n] share their dimensions among concepts. Source: Elhage et al. 2022."""
    norm = weight.norm(dim=1)
    overlaps = (weight.mT @ weight).square() / norm.square().clamp_min(1e-12)[..., None]
    total = overlaps.sum(-1)
    own = overlaps.diagonal(dim1=-2, dim2=-1)
    return Superposition(norm, total - own, norm.square() / total.clamp_min(1e-12))
