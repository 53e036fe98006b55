from pathlib import Path

import pytest
import torch

from monosem.core.errors import InputError
from monosem.core.nonlinearities import NONLINEARITIES
from monosem.encoders.backbones import (
    EncoderSettings,
    OutputSettings,
    build_encoder,
    load_encoder,
    save_encoder,
)

SMALL = EncoderSettings(backbone="small_conv", width=4, projector_hidden=16, projector_out=6)


def images(n: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("channels", "size", "stem"), [(1, 8, "cifar"), (3, 32, "strided"), (3, 64, "imagenet")]
)
@pytest.mark.parametrize("backbone", ["small_conv", "resnet18"])
def test_every_backbone_takes_small_and_large_images(
    backbone: str, channels: int, size: int, stem: str
) -> None:
    encoder = build_encoder(SMALL.replace(backbone=backbone, stem=stem), channels, seed=0)
    batch = images(2, channels, size)
    assert encoder.backbone_features(batch).shape == (2, 32)
    assert encoder(batch).shape == (2, 6)


@pytest.mark.parametrize(("stem", "parameters"), [("imagenet", 11_176_512), ("cifar", 11_168_832)])
def test_resnet18_has_the_published_number_of_parameters(stem: str, parameters: int) -> None:
    settings = EncoderSettings(stem=stem, projector_hidden=1, projector_out=1)
    encoder = build_encoder(settings, 3, seed=0)
    assert sum(parameter.numel() for parameter in encoder.backbone.parameters()) == parameters


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    simclr = build_encoder(SMALL, 3, seed=1)
    ncl = build_encoder(SMALL, 3, seed=1, output=OutputSettings(nonlinearity="relu"))
    other = build_encoder(SMALL, 3, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in simclr.state_dict().items():
        assert torch.equal(weight, ncl.state_dict()[name])
    assert not torch.equal(simclr.projector[0].weight, other.projector[0].weight)


def test_initial_weights_keep_the_scale_of_activations() -> None:
    encoder = build_encoder(SMALL.replace(width=32, projector_hidden=256), 3, seed=0)
    kernel = encoder.backbone[1][0].weight  # 64 x 32 x 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert encoder.projector[0].weight.abs().max().item() == pytest.approx(256**-0.5, rel=0.01)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_features_on_normalised_outputs_put_the_length_back(name: str) -> None:
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    raw, normalised = (
        build_encoder(SMALL, 3, 0, OutputSettings(nonlinearity=name, nonnegative_on=on)).features(z)
        for on in ("raw", "normalised")
    )
    naive = torch.stack([row.norm() * NONLINEARITIES[name](row / row.norm()) for row in z])
    torch.testing.assert_close(raw, NONLINEARITIES[name](z))
    torch.testing.assert_close(normalised, naive)
    homogeneous = name in ("relu", "rep_relu", "leaky_relu")
    assert torch.allclose(raw, normalised, atol=1e-6) == homogeneous


def test_features_of_a_zero_row_are_finite_and_simclr_has_z_itself() -> None:
    z = torch.zeros(1, 6)
    for name in NONLINEARITIES:
        encoder = build_encoder(SMALL, 3, 0, OutputSettings(nonlinearity=name, nonnegative_on="normalised"))
        assert torch.isfinite(encoder.features(z)).all()
    z = torch.randn(2, 6)
    assert build_encoder(SMALL, 3, 0).features(z) is z


def test_saved_and_loaded_encoder_is_the_same(tmp_path: Path) -> None:
    encoder = build_encoder(SMALL, 1, 0, OutputSettings(nonlinearity="rep_relu"))
    encoder(images(8, 1, 8))  # moves the batch-norm buffers away from their start
    save_encoder(tmp_path / "encoder", encoder)
    loaded = load_encoder(tmp_path / "encoder")
    assert (loaded.settings, loaded.in_channels, loaded.output) == (SMALL, 1, encoder.output)
    assert not loaded.training
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_a_damaged_encoder_is_refused_by_name(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder", build_encoder(SMALL, 1, 0))
    weights = tmp_path / "encoder" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load_encoder(tmp_path / "encoder")
