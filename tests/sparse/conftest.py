import pytest
import torch
from torch import Tensor

from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae

TINY = SAESettings(n_latents=24, k=4, epochs=40, batch_size=100, lr=1e-2)


def concepts(n_rows: int, seed: int) -> Tensor:
    """Sparse non-negative mixtures of 16 fixed directions in 12 dimensions, far from the origin."""
    directions = torch.randn(16, 12, generator=torch.Generator().manual_seed(99))
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(n_rows, 16, generator=random) < 0.12
    return (present * (0.5 + torch.rand(n_rows, 16, generator=random))) @ directions + 5.0


@pytest.fixture(scope="session")
def train_features() -> Tensor:
    """[600, 12]."""
    return concepts(600, seed=0)


@pytest.fixture(scope="session")
def test_features() -> Tensor:
    """[200, 12], held out."""
    return concepts(200, seed=1)


@pytest.fixture(scope="session")
def tiny() -> SAESettings:
    """Settings of a training that takes a fraction of a second."""
    return TINY


@pytest.fixture(scope="session")
def trained(train_features: Tensor) -> SAE:
    """An SAE of `train_features`; tests must not change it."""
    return fit_sae(train_features, TINY)
