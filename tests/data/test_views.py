"""The distributions of the view parameters, and the pipeline as a whole."""

import itertools
import math
import random
from dataclasses import fields, replace

import pytest
import torch
from scipy import stats

from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.data.views import ViewParameters, ViewSettings, apply_views, draw_parameters, two_views

N = 20_000
OFF = ViewSettings(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0, jitter=0, grayscale=0, blur=0)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(n: int, channels: int = 3, size: int = 16) -> torch.Tensor:
    shape = (n, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream(7))


@pytest.fixture(scope="module")
def parameters() -> ViewParameters:
    """Of many views of 32 x 32 colour images under the default settings."""
    return draw_parameters(N, 32, 32, 3, ViewSettings(), stream())


def rows_of(parameters: ViewParameters, rows: slice) -> ViewParameters:
    tensors = {
        f.name: getattr(parameters, f.name)[rows] for f in fields(parameters) if f.name != "blur_radius"
    }
    return replace(parameters, **tensors)


def crop_reference(height: int, width: int, generator: random.Random) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, one sample at a time."""
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return generator.randint(0, height - h), generator.randint(0, width - w), h, w
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(32, 32), (12, 40)])
def test_crops_are_distributed_as_those_of_one_sample_at_a_time(height: int, width: int) -> None:
    drawn = draw_parameters(N, height, width, 3, ViewSettings(), stream())
    generator = random.Random(0)
    expected = zip(*(crop_reference(height, width, generator) for _ in range(N)), strict=True)
    for name, reference in zip(("top", "left", "height", "width"), expected, strict=True):
        values = getattr(drawn, name).numpy()
        assert stats.ks_2samp(values, reference).pvalue > 1e-3, name
    assert (drawn.top >= 0).all()
    assert (drawn.top + drawn.height <= height).all()
    assert (drawn.left >= 0).all()
    assert (drawn.left + drawn.width <= width).all()


def test_a_ratio_that_never_fits_falls_back_to_the_centre() -> None:
    settings = ViewSettings(crop_scale=(1.0, 1.0), crop_ratio=(2.0, 2.0))
    drawn = draw_parameters(3, 32, 32, 3, settings, stream())
    boxes = torch.stack([drawn.top, drawn.left, drawn.height, drawn.width], dim=1)
    assert boxes.tolist() == [[8, 0, 16, 32]] * 3


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", 0.2, 1.8),
        ("contrast", 0.2, 1.8),
        ("saturation", 0.2, 1.8),
        ("hue", -0.2, 0.2),
    ],
)
def test_jitter_factors_are_uniform_on_four_fifths_of_the_views(
    parameters: ViewParameters, name: str, low: float, high: float
) -> None:
    values = getattr(parameters, name)
    jittered = values != (0.0 if name == "hue" else 1.0)
    assert stats.binomtest(int(jittered.sum()), N, 0.8).pvalue > 1e-3
    assert stats.kstest(values[jittered].numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_a_strength_above_one_never_makes_a_factor_negative() -> None:
    drawn = draw_parameters(N, 8, 8, 3, ViewSettings(brightness=1.5, jitter=1.0), stream())
    assert stats.kstest(drawn.brightness.numpy(), "uniform", (0.0, 2.5)).pvalue > 1e-3


def test_all_or_none_of_a_views_jitter_happens(parameters: ViewParameters) -> None:
    assert torch.equal(parameters.brightness != 1.0, parameters.contrast != 1.0)
    assert torch.equal(parameters.brightness != 1.0, parameters.hue != 0.0)


def test_every_order_of_jitter_is_equally_likely(parameters: ViewParameters) -> None:
    place = {order: number for number, order in enumerate(itertools.permutations(range(4)))}
    counts = torch.bincount(torch.tensor([place[tuple(order)] for order in parameters.order.tolist()]))
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_flip_gray_and_blur_happen_as_often_as_asked(parameters: ViewParameters) -> None:
    blurred = parameters.sigma > 0
    for happened, probability in ((parameters.flip, 0.5), (parameters.grayscale, 0.2), (blurred, 0.5)):
        assert stats.binomtest(int(happened.sum()), N, probability).pvalue > 1e-3
    assert stats.kstest(parameters.sigma[blurred].numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_parts_are_drawn_independently(parameters: ViewParameters) -> None:
    parts = [
        parameters.flip,
        parameters.brightness != 1.0,
        parameters.grayscale,
        parameters.sigma > 0,
        parameters.brightness,
        parameters.contrast,
        parameters.saturation,
        parameters.hue,
        parameters.height,
    ]
    table = torch.stack([part.double() for part in parts])
    table[4:8, parameters.brightness == 1.0] = table[4:8].mean(dim=1, keepdim=True)
    correlation = torch.corrcoef(table) - torch.eye(len(parts))
    assert correlation.abs().max() < 4.5 / math.sqrt(N * 0.8)


def test_everything_switched_off_returns_the_image() -> None:
    images = some_images(5)
    for view in two_views(images, OFF, stream()):
        torch.testing.assert_close(view, images / 255.0, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "part",
    [
        {"crop_scale": (0.2, 0.5)},
        {"flip": 1.0},
        {"jitter": 1.0},
        {"grayscale": 1.0},
        {"blur": 1.0, "blur_sigma": (1.0, 2.0)},
    ],
)
def test_each_part_alone_changes_the_image(part: dict[str, object]) -> None:
    images = some_images(5)
    view, _ = two_views(images, OFF.replace(**part), stream())
    assert ((view - images / 255.0).abs().amax(dim=(1, 2, 3)) > 0.01).all()


def test_views_are_float_in_range_differ_and_repeat_with_the_seed() -> None:
    images = some_images(64)
    first, second = two_views(images, ViewSettings(), stream())
    for view in (first, second):
        assert view.dtype == torch.float32
        assert view.shape == images.shape
        assert view.min() >= 0.0
        assert view.max() <= 1.0 + 1e-5
    assert ((first - second).abs().amax(dim=(1, 2, 3)) > 0.01).all()
    again, _ = two_views(images, ViewSettings(), stream())
    assert torch.equal(first, again)


def test_a_view_depends_on_its_own_image_and_parameters_only() -> None:
    images = some_images(12)
    drawn = draw_parameters(12, 16, 16, 3, ViewSettings(), stream())
    whole = apply_views(images, drawn)
    part = apply_views(images[4:9], rows_of(drawn, slice(4, 9)))
    torch.testing.assert_close(whole[4:9], part, atol=1e-6, rtol=0)


def test_autocast_does_not_coarsen_views() -> None:
    images = some_images(4)
    drawn = draw_parameters(4, 16, 16, 3, ViewSettings(), stream())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = apply_views(images, drawn)
    assert torch.equal(inside, apply_views(images, drawn))


def test_one_channel_keeps_crop_brightness_contrast_and_blur_alone() -> None:
    drawn = draw_parameters(500, 8, 8, 1, ViewSettings(jitter=1.0), stream())
    assert (drawn.saturation == 1.0).all()
    assert (drawn.hue == 0.0).all()
    assert not drawn.grayscale.any()
    assert (drawn.brightness != 1.0).all()
    view = apply_views(some_images(500, 1, 8), drawn)
    assert view.shape == (500, 1, 8, 8)
    assert view.std() > 0.05


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 channels, these have 2"):
        two_views(some_images(2, 2), ViewSettings(), stream())


@pytest.mark.parametrize(
    "tree",
    [
        {"crop_scale": [0.5, 0.1]},
        {"crop_scale": [0.5, 1.5]},
        {"crop_ratio": [0.0, 1.0]},
        {"flip": 1.1},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"blur_sigma": [0.0, 1.0]},
    ],
)
def test_impossible_settings_are_refused_by_name(tree: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(tree))):
        parse(ViewSettings, tree, "views")
