"""One image file -> uint8 pixels: its centre for embedding, random crops of one decoding for training."""

import ctypes
import math
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from monosem.data.views import CROP_ATTEMPTS, ViewSettings

# What Pillow raises, by format, for files that are no image or break off.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

BYTES_A_PIXEL = 4
"""As Pillow keeps RGB: the fourth is not used."""

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


def decode_crops(path: Path, views: ViewSettings, stream: random.Random, targets: Sequence[Tensor]) -> None:
    """Random crops of one decoding, resized (bilinear with antialiasing, as Pillow's) into the `targets`.

    Each is uint8 [1, 4, S, S] with the channels last in memory; see BYTES_A_PIXEL. A JPEG all of whose boxes
    have at least twice, four or eight times S pixels a side is decoded at that fraction of its size, and the
    boxes are rounded to it.
    """
    size = targets[0].shape[-1]
    with Image.open(path) as image:
        full_width, full_height = image.size
        boxes = [draw_box(full_width, full_height, views, stream) for _ in targets]
        shortest = min(min(box[2:]) for box in boxes)
        fraction = next(n for n in (8, 4, 2, 1) if n == 1 or shortest >= n * size)
        if fraction > 1:
            image.draft(None, (full_width // fraction, full_height // fraction))
        rgb = _as_rgb(image)
    pixels = _pixels(rgb)
    row, down = rgb.width * BYTES_A_PIXEL, round(full_width / rgb.width)  # only JPEG knows fractions
    for (left, top, width, height), target in zip(boxes, targets, strict=True):
        x0, y0 = left // down, top // down
        shape = 1, BYTES_A_PIXEL, (top + height) // down - y0, (left + width) // down - x0
        cut = pixels.as_strided(shape, (len(pixels), 1, row, BYTES_A_PIXEL), y0 * row + x0 * BYTES_A_PIXEL)
        # What interpolate(antialias=True) calls, but writing into place. On x86 it is vectorised for uint8.
        torch.ops.aten._upsample_bilinear2d_aa.out(cut, [size, size], False, None, None, out=target)


def draw_box(width: int, height: int, views: ViewSettings, stream: random.Random) -> Box:
    """A random crop of an image: a share of its area and a ratio of sides as `views` says, anywhere in it.

    As for images in memory: of ten attempts the first that fits, else the central box of the nearest ratio.
    """
    low_ratio, high_ratio = views.crop_ratio
    for _ in range(CROP_ATTEMPTS):
        area = width * height * stream.uniform(*views.crop_scale)
        ratio = math.exp(stream.uniform(math.log(low_ratio), math.log(high_ratio)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return stream.randint(0, width - w), stream.randint(0, height - h), w, h
    ratio = min(max(width / height, low_ratio), high_ratio)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


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


class _ArrowArray(ctypes.Structure):
    """The C data interface of Apache Arrow, up to what is read here."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _pixels(rgb: Image.Image) -> Tensor:
    """The pixels where Pillow keeps them, uint8 [H * W * 4], good for as long as the image lives.

    A copy would cost a tenth of decoding. Pillow before 11.2, and images of several blocks, leave no choice.
    """
    try:
        _, capsule = rgb.__arrow_c_array__()
    except (AttributeError, ValueError):
        return torch.from_numpy(np.array(rgb.convert("RGBX")).reshape(-1))
    array = _ArrowArray.from_address(_address(capsule, b"arrow_array"))
    n_bytes = rgb.width * rgb.height * BYTES_A_PIXEL
    memory = (ctypes.c_uint8 * n_bytes).from_address(array.children[0].contents.buffers[1])
    return torch.frombuffer(memory, dtype=torch.uint8)
