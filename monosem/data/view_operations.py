"""The augmentation operations, each on a whole batch with parameters per sample.

They are quick because they consist of small matrix products. Crop, flip and blur are separable linear
maps, one matrix for the rows and one for the columns of each image; every colour operation is an affine
map of the channels followed by a clamp. Hence hue is a rotation of the YIQ plane, not of the HSV angle.

Images are float32 [N, C, H, W] in 0..1 with C = 1 or 3; parameters are [N] and on the images' device.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def crop_and_flip(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor
) -> Tensor:
    """Cut a box of whole pixels, resize it bilinearly to the image's size and mirror it where `flip`.

    A crop is never larger than its image, so there is nothing to antialias.
    """
    rows = _source_positions(top, height, images.shape[2])
    columns = _source_positions(left, width, images.shape[3])
    columns = torch.where(flip.unsqueeze(1), columns.flip(1), columns)
    return _separable(images, _bilinear_weights(rows), _bilinear_weights(columns))


def jitter(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, order: Tensor
) -> Tensor:
    """Colour jitter; each sample meets the four operations in its own `order` [N, 4] of their numbers.

    Factors as torchvision's: brightness scales, contrast and saturation blend with the mean gray of the
    image and with the gray of the pixel, hue is in turns. Values are clamped to 0..1 after each.
    """
    n, channels, height, width = images.shape
    luma = _luma(channels, images.device)
    eye = torch.eye(channels, device=images.device)
    scales = torch.stack([brightness, contrast], dim=1).view(n, 2, 1, 1) * eye
    blend = saturation.view(n, 1, 1)
    saturated = blend * eye + (1.0 - blend) * luma.expand(channels, channels)
    operations = torch.cat([scales, saturated.unsqueeze(1), _hue_maps(hue, channels).unsqueeze(1)], dim=1)
    samples = torch.arange(n, device=images.device)
    pixels = images.reshape(n, channels, height * width)
    for step in range(4):
        operation = order[:, step]
        towards_gray = (1.0 - contrast) * (pixels.mean(dim=2) @ luma)
        offset = torch.where(operation == CONTRAST, towards_gray, 0.0).view(n, 1, 1)
        pixels = torch.baddbmm(offset, operations[samples, operation], pixels).clamp_(0.0, 1.0)
    return pixels.view(n, channels, height, width)


def to_gray(images: Tensor, chosen: Tensor) -> Tensor:
    """The images with all channels set to the luma where `chosen` (bool [N])."""
    n, channels, height, width = images.shape
    gray = _luma(channels, images.device).expand(channels, channels)
    maps = torch.where(chosen.view(n, 1, 1), gray, torch.eye(channels, device=images.device))
    return torch.bmm(maps, images.reshape(n, channels, height * width)).view(images.shape)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of `sigma` pixels, truncated at `radius` < H, W, mirrored at the border.

    Images whose sigma is 0 come back unchanged.
    """
    distances = torch.arange(radius + 1, device=images.device)
    # A deviation far below a pixel leaves the centre tap alone, as an exact 1.
    weights = torch.exp(-0.5 * (distances / sigma.clamp(min=1e-3).unsqueeze(1)).square())
    weights = weights / (2.0 * weights.sum(dim=1, keepdim=True) - 1.0)
    rows, columns = (
        (weights @ _reflected_taps(size, radius, images.device)).view(-1, size, size)
        for size in images.shape[2:]
    )
    return _separable(images, rows, columns)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for each channel: [N, C, H, W] with [N, H, H] and [N, W, W]."""
    n, channels, height, width = images.shape
    across = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows.unsqueeze(1), across.view(n, channels, height, width))


def _source_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where in the image each of `size` output pixels of a crop comes from: [N] -> [N, size]."""
    length = length.unsqueeze(1)
    within = (torch.arange(size, device=start.device) + 0.5) * (length / size) - 0.5
    # Bilinear weights reach half a pixel beyond the crop; outside it lies what the view must not show.
    return start.unsqueeze(1) + torch.minimum(within.clamp(min=0.0), length - 1.0)


def _bilinear_weights(positions: Tensor) -> Tensor:
    """Weights that read a line of pixels at real positions: [N, L] -> [N, L, L]."""
    pixels = torch.arange(positions.shape[1], device=positions.device, dtype=positions.dtype)
    return (positions.unsqueeze(2) - pixels).abs_().neg_().add_(1.0).clamp_(min=0.0)


def _hue_maps(turns: Tensor, channels: int) -> Tensor:
    """Maps of the channels that turn the chroma of YIQ and keep its luma: [N] -> [N, C, C]."""
    if channels == 1:
        return torch.ones(len(turns), 1, 1, device=turns.device)
    # Seen in (I, Q), the way from red to green is clockwise.
    angle = -2.0 * math.pi * turns
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    from_yiq, to_yiq = _yiq_maps(rotation.dtype, rotation.device)
    return from_yiq @ rotation @ to_yiq


# What follows is made once: a GPU waits whenever numbers of the host are copied to it.


@lru_cache(maxsize=8)
def _luma(channels: int, device: torch.device) -> Tensor:
    """What each channel adds to the gray of a pixel: [C]."""
    return torch.tensor(_LUMA if channels == 3 else (1.0,), device=device)


@lru_cache(maxsize=8)
def _yiq_maps(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """From YIQ to RGB and back, each [3, 3]."""
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    return torch.linalg.inv(to_yiq).to(device, dtype), to_yiq.to(device, dtype)


@lru_cache(maxsize=8)
def _reflected_taps(size: int, radius: int, device: torch.device) -> Tensor:
    """How often pixel i of a line mirrored at its ends reads pixel j at distance d: [R + 1, size * size]."""
    pixels = torch.arange(size)
    taps = torch.zeros(radius + 1, size, size)
    for step in range(-radius, radius + 1):
        read = (size - 1) - ((size - 1) - (pixels + step).abs()).abs()
        taps[abs(step), pixels, read] += 1.0
    return taps.view(radius + 1, size * size).to(device)
