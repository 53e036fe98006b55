"""One image file -> uint8 pixels: its centre for embedding, two random crops of one decoding for training."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# What Pillow raises, by format, for files that are no image or break off.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Box = tuple[int, int, int, int]
"""Left, top, width and height in whole pixels."""


def explain(path: Path, error: Exception) -> str:
    """Why this file does not decode, in a few words."""
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file"
    return str(error) or type(error).__name__


def check_header(path: Path) -> int:
    """The file's size in bytes, after its header was read: a known format, at least one pixel.

    Raises:
        one of DECODE_ERRORS: it is no image; one that breaks off later is only found by decoding it.
    """
    with Image.open(path) as image:
        if min(image.size) < 1:
            raise ValueError(f"an image of {image.size[0]} x {image.size[1]} pixels")
    return path.stat().st_size


def decode_centre(path: Path, size: int) -> np.ndarray:
    """The image as uint8 [3, size, size]: its shorter side resized (bicubic), the centre cut out."""
    with Image.open(path) as image:
        rgb = _as_rgb(image)
    scale = size / min(rgb.size)
    width, height = (max(size, round(side * scale)) for side in rgb.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def decode_crops(path: Path, draw_box: Callable[[int, int], Box], out: Tensor) -> None:
    """Crops of one decoding, resized (bilinear with antialiasing, as Pillow's) into uint8 `out` [V, S, S, 3].

    `draw_box` is called with the image's width and height once for each of the V crops. A JPEG all of
    whose boxes are at least twice, four or eight times S is decoded at that fraction of its size; the
    boxes are then rounded to its pixels.
    """
    size = out.shape[1]
    with Image.open(path) as image:
        full_width, full_height = image.size
        boxes = [draw_box(full_width, full_height) for _ in range(len(out))]
        shortest = min(min(width, height) for _, _, width, height in boxes)
        fraction = next(n for n in (8, 4, 2, 1) if n == 1 or shortest >= n * size)
        if fraction > 1:
            image.draft(None, (full_width // fraction, full_height // fraction))
        rgb = _as_rgb(image)
    pixels = torch.from_numpy(_pixels(rgb)).permute(2, 0, 1)[None]
    down = round(full_width / rgb.width)  # formats without fractions come in full
    for (left, top, width, height), crop in zip(boxes, out, strict=True):
        x0, y0 = left // down, top // down
        x1, y1 = (left + width) // down, (top + height) // down
        _resize(pixels[:, :, y0:y1, x0:x1], crop)


def _pixels(rgb: Image.Image) -> np.ndarray:
    """A writable uint8 array [H, W, 3]."""
    return np.array(rgb)


def _resize(pixels: Tensor, out: Tensor) -> None:
    """[1, 3, H, W] -> `out` [S, S, 3]; both uint8, in memory with the channels last."""
    target = out.permute(2, 0, 1)[None]
    size = list(target.shape[2:])
    # The operation behind interpolate(antialias=True), which has no `out`; on x86 it is vectorised for uint8.
    torch.ops.aten._upsample_bilinear2d_aa.out(pixels, size, False, None, None, out=target)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Decoded, in RGB, 8 bits. Alpha is dropped: the colours beneath stay; 16 bits become their upper 8.

    Raises:
        ValueError: pixels of 32 bits, whose range is not known.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels of unknown range; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown range; save it with 8 or 16 bits")
    image.load()
    image.info.pop("transparency", None)  # of no use to RGB, and Pillow warns of some forms of it
    return image.convert("RGB")
