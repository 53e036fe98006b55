from collections.abc import Callable
from typing import Any

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


def _drawn(activation: str, input_norm: str = "rms", **settings: Any) -> SAE:
    sae = SAE(12, SAESettings(n_latents=24, k=4, activation=activation, input_norm=input_norm, **settings))
    random = torch.Generator().manual_seed(5)
    sae.decoder.data.copy_(torch.nn.functional.normalize(torch.randn(24, 12, generator=random), dim=1))
    sae.encoder.data.copy_(sae.decoder + 0.1 * torch.randn(24, 12, generator=random))
    sae.encoder_bias.data.copy_(0.2 * torch.randn(24, generator=random))
    sae.b_pre.data.copy_(torch.randn(12, generator=random))
    if sae.threshold is not None:  # some negative: below zero nothing is active, whatever the threshold
        sae.threshold.data.copy_(torch.linspace(-0.5, 1.0, 24))
    if input_norm == "rms":
        sae.input_scale.fill_(3.7)
    sae.trained_on = "f00d"
    return sae


@pytest.fixture(scope="session")
def drawn() -> Callable[..., SAE]:
    """Makes an untrained SAE of 24 latents over 12 inputs, all its weights drawn, by activation and norm."""
    return _drawn
