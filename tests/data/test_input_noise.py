"""Input noise: its moments, its nesting over levels, and its tie to samples rather than to places."""

from typing import Any

import pytest
import torch
from scipy import stats

from monosem.core.errors import InputError
from monosem.data.input_noise import add_input_noise

BLACK = torch.zeros(60, 3, 8, 8)
KINDS = ("gaussian", "uniform", "uniform_published")
STD = (0.2, 0.25, 0.3)


def noise_of(kind: Any, level: float, seed: int = 0, **options: Any) -> torch.Tensor:
    channel_std = STD if kind == "uniform_published" else None
    return add_input_noise(BLACK, level, seed, kind, channel_std=channel_std, **options)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("gaussian", ("norm", (0, 0.3))), ("uniform", ("uniform", (-0.3 * 3**0.5, 0.6 * 3**0.5)))],
)
def test_centred_noise_has_the_stated_distribution(kind: Any, shape: tuple[str, tuple[float, float]]) -> None:
    noise = noise_of(kind, 0.3).flatten()
    assert stats.kstest(noise.numpy(), *shape).pvalue > 1e-3
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)


def test_published_uniform_noise_is_one_sided_in_units_of_each_channel() -> None:
    noise = noise_of("uniform_published", 0.5)
    for channel, deviation in enumerate(STD):
        values = noise[:, channel].flatten().numpy()
        assert stats.kstest(values, "uniform", (0, 0.5 * deviation)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_scales_one_fixed_field(kind: Any) -> None:
    torch.testing.assert_close(noise_of(kind, 0.6), 3 * noise_of(kind, 0.2))
    assert (noise_of(kind, 0.0) == 0).all()
    assert torch.equal(noise_of(kind, 0.2), noise_of(kind, 0.2))
    assert not torch.equal(noise_of(kind, 0.2, seed=1), noise_of(kind, 0.2))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_keep_their_noise_in_subsets_and_other_orders(kind: Any) -> None:
    ids = torch.randperm(60, generator=torch.Generator().manual_seed(0)) + 1000
    whole = noise_of(kind, 0.3, ids=ids)
    rows = torch.tensor([40, 3, 17])
    part = add_input_noise(BLACK[:3], 0.3, 0, kind, ids=ids[rows], channel_std=STD)
    assert torch.equal(whole[rows], part)
    assert torch.equal(noise_of(kind, 0.3, ids=torch.arange(60)), noise_of(kind, 0.3))
    distances = torch.cdist(whole.flatten(1), whole.flatten(1)) + torch.eye(60)
    assert distances.min() > 0.1


def test_bytes_and_fractions_are_the_same_images() -> None:
    images = torch.randint(
        0, 256, (4, 1, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    noisy = add_input_noise(images, 0.1, 0)
    assert noisy.dtype == torch.float32
    torch.testing.assert_close(noisy, add_input_noise(images / 255.0, 0.1, 0))
    torch.testing.assert_close(noisy - add_input_noise(torch.zeros(4, 1, 5, 6), 0.1, 0), images / 255.0)


def test_clipping_is_a_choice() -> None:
    free = noise_of("gaussian", 0.5)
    assert free.min() < 0
    assert torch.equal(noise_of("gaussian", 0.5, clip=True), free.clamp(0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": -0.1}, "at least 0"),
        ({"level": float("nan")}, "at least 0"),
        ({"level": float("inf")}, "at least 0"),
        ({"images": BLACK.long()}, "uint8 or floating point"),
        ({"ids": torch.arange(3)}, "3 ids for 60 images"),
        ({"kind": "uniform_published"}, "deviations of the 3 channels"),
        ({"kind": "uniform_published", "channel_std": (1.0,)}, "deviations of the 3 channels"),
    ],
)
def test_impossible_noise_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_input_noise(**{"images": BLACK, "level": 0.1, "seed": 0, **change})
