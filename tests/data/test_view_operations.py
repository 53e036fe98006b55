"""Each augmentation operation against a slow reference: one sample, and mostly one pixel, at a time."""

import cmath
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monosem.data.view_operations import blur, crop_and_flip, jitter, to_gray

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def some_images(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def crop_reference(
    image: np.ndarray, top: int, left: int, crop_height: int, crop_width: int, flip: bool
) -> np.ndarray:
    """Cut, resize bilinearly with pixel centres aligned and the border repeated, then mirror."""
    box = image[:, top : top + crop_height, left : left + crop_width]
    channels, height, width = image.shape
    result = np.empty_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_y = min(max((y + 0.5) * crop_height / height - 0.5, 0), crop_height - 1)
                source_x = min(max((x + 0.5) * crop_width / width - 0.5, 0), crop_width - 1)
                y0, x0 = int(source_y), int(source_x)
                y1, x1 = min(y0 + 1, crop_height - 1), min(x0 + 1, crop_width - 1)
                down, right = source_y - y0, source_x - x0
                above = (1 - right) * box[c, y0, x0] + right * box[c, y0, x1]
                below = (1 - right) * box[c, y1, x0] + right * box[c, y1, x1]
                result[c, y, x] = (1 - down) * above + down * below
    return result[:, :, ::-1] if flip else result


def gray_of(pixel: np.ndarray) -> float:
    return float(LUMA @ pixel) if len(pixel) == 3 else float(pixel[0])


def hue_reference(pixel: np.ndarray, turns: float) -> np.ndarray:
    """Turn the chroma, seen as a complex number, from red towards green by `turns`."""
    y, i, q = YIQ @ pixel
    chroma = complex(i, q) * cmath.exp(-2j * math.pi * turns)
    return np.linalg.solve(YIQ, np.array([y, chroma.real, chroma.imag]))


def jitter_reference(image: np.ndarray, factors: list[float], order: list[int]) -> np.ndarray:
    brightness, contrast, saturation, hue = factors
    channels, height, width = image.shape
    result = image.copy()
    for operation in order:
        pixels = [(y, x) for y in range(height) for x in range(width)]
        mean_gray = sum(gray_of(result[:, y, x]) for y, x in pixels) / len(pixels)
        for y, x in pixels:
            pixel = result[:, y, x].copy()
            if operation == 0:
                pixel = brightness * pixel
            elif operation == 1:
                pixel = contrast * pixel + (1 - contrast) * mean_gray
            elif operation == 2:
                pixel = saturation * pixel + (1 - saturation) * gray_of(pixel)
            elif channels == 3:
                pixel = hue_reference(pixel, hue)
            result[:, y, x] = np.clip(pixel, 0, 1)
    return result


def blur_reference(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    taps = range(-radius, radius + 1)
    weights = {(dy, dx): math.exp(-(dy * dy + dx * dx) / (2 * sigma**2)) for dy in taps for dx in taps}
    total = sum(weights.values())
    padded = np.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    height, width = image.shape[1:]
    result = np.zeros_like(image)
    for (dy, dx), weight in weights.items():
        rows, columns = slice(radius + dy, radius + dy + height), slice(radius + dx, radius + dx + width)
        result += weight / total * padded[:, rows, columns]
    return result


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_crop_and_flip_equals_cutting_resizing_and_mirroring(data: Any) -> None:
    height, width = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    crop_height, crop_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top = data.draw(st.integers(0, height - crop_height))
    left = data.draw(st.integers(0, width - crop_width))
    flip = data.draw(st.booleans())
    images = some_images(1, 3, height, width)
    box = [torch.tensor([value]) for value in (top, left, crop_height, crop_width)]

    made = crop_and_flip(images, *box, torch.tensor([flip]))

    expected = crop_reference(images[0].double().numpy(), top, left, crop_height, crop_width, flip)
    np.testing.assert_allclose(made[0].numpy(), expected, atol=1e-5)


def test_a_view_shows_nothing_from_outside_its_crop() -> None:
    images = torch.zeros(1, 1, 8, 8)
    images[:, :, 2:5, 3:7] = 1.0
    box = [torch.tensor([value]) for value in (2, 3, 3, 4)]
    assert crop_and_flip(images, *box, torch.tensor([False])).min() == pytest.approx(1.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_the_reference_in_each_samples_own_order(channels: int) -> None:
    images = some_images(24, channels, 3, 4)
    generator = torch.Generator().manual_seed(1)
    brightness, contrast, saturation = torch.rand(3, 24, generator=generator) * 1.8
    hue = torch.rand(24, generator=generator) - 0.5
    order = torch.rand(24, 4, generator=generator).argsort(dim=1)

    made = jitter(images, brightness, contrast, saturation, hue, order)

    for sample in range(24):
        factors = [float(values[sample]) for values in (brightness, contrast, saturation, hue)]
        expected = jitter_reference(images[sample].double().numpy(), factors, order[sample].tolist())
        np.testing.assert_allclose(made[sample].numpy(), expected, atol=1e-5)


def test_order_of_jitter_matters() -> None:
    images = some_images(2, 3, 4, 4)
    factors = [torch.full((2,), value) for value in (1.7, 0.3, 1.6, 0.1)]
    made = jitter(images[:1].expand(2, -1, -1, -1), *factors, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))
    assert (made[0] - made[1]).abs().max() > 0.05


@pytest.mark.parametrize(("turns", "strongest"), [(0.0, 0), (1 / 3, 1), (-1 / 3, 2)])
def test_hue_turns_red_towards_green_and_keeps_its_luma(turns: float, strongest: int) -> None:
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1)
    one = torch.ones(1)
    turned = jitter(red, one, one, one, torch.tensor([turns]), torch.arange(4).view(1, 4)).flatten()
    assert int(turned.argmax()) == strongest
    assert float(turned @ torch.tensor([0.299, 0.587, 0.114])) == pytest.approx(0.4598, abs=1e-5)


def test_hue_leaves_gray_alone() -> None:
    gray = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    one = torch.ones(1)
    turned = jitter(gray, one, one, one, torch.tensor([0.37]), torch.arange(4).view(1, 4))
    torch.testing.assert_close(turned, gray, atol=1e-4, rtol=0)


def test_to_gray_changes_the_chosen_images_only() -> None:
    images = some_images(2, 3, 4, 4)
    made = to_gray(images, torch.tensor([True, False]))
    expected = np.tensordot(LUMA, images[0].double().numpy(), axes=1)
    for channel in range(3):
        np.testing.assert_allclose(made[0, channel].numpy(), expected, atol=1e-6)
    assert torch.equal(made[1], images[1])


def test_blur_equals_a_plain_convolution_of_each_image() -> None:
    images = some_images(4, 3, 8, 11)
    sigma = torch.tensor([0.1, 0.7, 1.3, 2.0])
    made = blur(images, sigma, radius=6)
    for sample in range(4):
        expected = blur_reference(images[sample].double().numpy(), float(sigma[sample]), 6)
        np.testing.assert_allclose(made[sample].numpy(), expected, atol=1e-5)


def test_blur_of_no_deviation_changes_no_bit() -> None:
    images = some_images(2, 1, 8, 8)
    made = blur(images, torch.tensor([0.0, 1.0]), radius=6)
    assert torch.equal(made[0], images[0])
    assert not torch.equal(made[1], images[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_no_operation_waits_for_the_host_once_its_constants_are_there(channels: int) -> None:
    class DeviceOnly(TorchDispatchMode):
        """Lets no tensor of the host in; tensors without values ("meta") let no number out."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            hosts = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor) and t.is_cpu]
            assert not hosts, f"{func} with {hosts}"
            return made

    images = some_images(4, channels, 8, 8).to("meta")
    factors, chosen = images[:, 0, 0, 0], images[:, 0, 0, 0] > 0
    box = [torch.ones_like(factors, dtype=torch.int64) for _ in range(4)]
    order = torch.empty(4, 4, dtype=torch.int64, device="meta")

    def all_operations() -> Tensor:
        views = crop_and_flip(images, *box, chosen)
        views = jitter(views, factors, factors, factors, factors, order)
        return blur(to_gray(views, chosen), factors, radius=3)

    with pytest.raises(AssertionError), DeviceOnly():  # the first call makes them, and is seen to
        all_operations()
    all_operations()
    with DeviceOnly():
        assert all_operations().shape == images.shape
