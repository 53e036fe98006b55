import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.progress import SilentWatch
from monosem.sparse.sae import SAESettings, SparseAutoencoder
from monosem.sparse.train import fit, fvu, gradients


def concepts(n_rows: int, dim: int, n_concepts: int, seed: int = 0) -> Tensor:
    """Sparse non-negative mixtures of a fixed dictionary, away from the origin: what an SAE is for."""
    dictionary = torch.randn(n_concepts, dim, generator=torch.Generator().manual_seed(99))
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(n_rows, n_concepts, generator=random) < 3 / n_concepts
    return (present * torch.rand(n_rows, n_concepts, generator=random)) @ dictionary + 5.0


def naive_loss(
    z: Tensor, weights: dict[str, Tensor], k: int, aux_k: int, dead: Tensor, coef: float, variance: float
) -> tuple[Tensor, Tensor]:
    """The objective spelled out sample by sample on dense codes, for autograd."""
    encoder, bias, decoder, b_pre = (weights[n] for n in ("encoder", "encoder_bias", "decoder", "b_pre"))
    errors, aux_errors, residuals = [], [], []
    for row in z:
        pre = encoder @ (row - b_pre) + bias
        keep = torch.zeros_like(pre)
        keep[pre.argsort(descending=True)[:k]] = 1
        residual = row - (decoder.T @ (torch.relu(pre) * keep) + b_pre)
        errors.append((residual**2).sum())
        if len(dead):
            keep_dead = torch.zeros_like(pre)
            ranked = dead[pre[dead].argsort(descending=True)]
            keep_dead[ranked[:aux_k]] = 1
            target = residual.detach()
            residuals.append(target)
            aux_errors.append(((target - decoder.T @ (torch.relu(pre) * keep_dead)) ** 2).sum())
    loss = torch.stack(errors).sum() / (z.numel() * variance)
    if not len(dead):
        return loss, torch.zeros(())
    target = torch.stack(residuals)
    spread = ((target - target.mean(dim=0)) ** 2).sum()
    return loss, coef * torch.stack(aux_errors).sum() / spread


@pytest.mark.parametrize("dead", [[], [4], [0, 3, 5, 8, 9]])
def test_gradients_are_those_of_the_dense_objective(dead: list[int]) -> None:
    random = torch.Generator().manual_seed(1)
    sae = SparseAutoencoder(6, SAESettings(n_latents=10, k=3, aux_k=2, aux_coef=0.5)).double()
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    z = torch.randn(7, 6, generator=random, dtype=torch.float64)
    dead_latents = torch.tensor(dead, dtype=torch.int64)

    weights = {name: p.clone().requires_grad_() for name, p in sae.named_parameters()}
    loss, aux = naive_loss(z, weights, 3, 2, dead_latents, 0.5, variance=1.7)
    (loss + aux).backward()
    step = gradients(sae, z, dead_latents, variance=1.7)

    assert torch.allclose(step.loss, loss, rtol=1e-12)
    assert torch.allclose(0.5 * step.aux_loss, aux.double(), rtol=1e-12)
    for name, parameter in sae.named_parameters():
        assert torch.allclose(parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-14), name
