"""Two random crops of an image: a process decodes it once, the device cuts and resizes.

What is handed over of each image is a record of bytes: a square frame with the decoded pixels in its
corner, four bytes each, and the two boxes to be cut out. To resize would cost a process several times as much
as to copy; a GPU hardly notices.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from monosem.data.decode import BYTES_A_PIXEL, as_rgb, decoding, pixels_of
from monosem.data.views import CROP_ATTEMPTS, ViewSettings, central_crop

Box = tuple[int, int, int, int]
"""Left, top, width and height in whole pixels."""

_BOX_BYTES = 2 * 4 * 4  # two boxes of four int32


def frame_side(size: int) -> int:
    """Pixels of a frame's side: room for two crops of `size`; for 224, ImageNet's usual 500 fit as well."""
    return 9 * size // 4


def record_bytes(size: int) -> int:
    """Bytes of a record for crops of `size` pixels."""
    return frame_side(size) ** 2 * BYTES_A_PIXEL + _BOX_BYTES


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
    w, h = central_crop(width, height, views)
    return (width - w) // 2, (height - h) // 2, w, h


def write_records(
    paths: Sequence[Path],
    size: int,
    views: ViewSettings,
    streams: Sequence[random.Random],
    records: Tensor,
) -> None:
    """Decode each image into its record, uint8 [B, record_bytes]; its boxes come from its own stream.

    Raises:
        InputError: a file does not decode (named).
    """
    frames, boxes = _parts(records, size)
    # As little as possible is done per image: after decoding one, no Python is left in the CPU's caches.
    drawn = []
    for path, stream, frame in zip(paths, streams, frames.unbind(), strict=True):
        with decoding(path):
            drawn.append(_write_frame(path, size, views, stream, frame))
    boxes.copy_(torch.tensor(drawn, dtype=torch.int32))


def cut_records(records: Tensor, size: int) -> Tensor:
    """The crops of records [B, record_bytes], made on their device: uint8 [2, B, size, size, 3 or more].

    Bilinear with antialiasing, as Pillow's, within one grey level.
    """
    frames, boxes = _parts(records, size)
    if records.device.type != "cpu":
        return torch.stack([resized(frames, boxes[:, view], size) for view in range(2)])
    crops = torch.empty((2, len(records), size, size, BYTES_A_PIXEL), dtype=torch.uint8)
    for row, pair in enumerate(boxes.tolist()):
        for view, box in enumerate(pair):
            _resize_into(crops[view, row], frames[row], box)
    return crops


def resized(frames: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One box (int [B, 4]) of each frame (uint8 [B, F, F, 4]) in two matrix products: uint8 [B, S, S, 3]."""
    n, side = frames.shape[:2]
    left, top, width, height = boxes.unbind(dim=1)
    with torch.autocast(frames.device.type, enabled=False):
        pixels = frames[..., :3].float().view(n, side, side * 3)
        rows = (_weights(top, height, size, side) @ pixels).view(n, size, side, 3)
        turned = rows.transpose(1, 2).reshape(n, side, size * 3)
        crops = (_weights(left, width, size, side) @ turned).view(n, size, size, 3)
    return crops.transpose(1, 2).round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Shares of `side` pixels in each of `size` that an interval is resized to: float32 [B, size, side]."""
    scale = (length / size).view(-1, 1, 1)
    pixel = torch.arange(side, device=start.device) - start.view(-1, 1, 1)
    centre = (torch.arange(size, device=start.device).view(-1, 1) + 0.5) * scale
    triangle = (1.0 - (pixel + 0.5 - centre).abs() / scale.clamp(min=1.0)).clamp_(min=0.0)
    triangle = triangle * ((pixel >= 0) & (pixel < length.view(-1, 1, 1)))
    return triangle / triangle.sum(dim=2, keepdim=True)


def _write_frame(
    path: Path, size: int, views: ViewSettings, stream: random.Random, frame: Tensor
) -> list[Box]:
    """Decode into the frame, uint8 [F, F, 4], and say which two boxes of it are the crops.

    A JPEG both of whose boxes have at least twice, four or eight times `size` pixels a side is decoded at
    that fraction of its size, and the boxes are rounded to it. An image larger than the frame is cut here,
    and the two finished crops are put there.
    """
    with Image.open(path) as image:
        full_width, full_height = image.size
        boxes = [draw_box(full_width, full_height, views, stream) for _ in range(2)]
        shortest = min(min(box[2:]) for box in boxes)
        fraction = next(n for n in (8, 4, 2, 1) if n == 1 or shortest >= n * size)
        if fraction > 1:
            image.draft(None, (full_width // fraction, full_height // fraction))
        rgb = as_rgb(image)
    down = round(full_width / rgb.width)
    if down > 1:  # a JPEG, no other format knows fractions
        boxes = [_rounded(box, down) for box in boxes]
    pixels = pixels_of(rgb)
    if max(rgb.size) <= len(frame):
        frame[: rgb.height, : rgb.width] = pixels
        return boxes
    crop = torch.empty((size, size, BYTES_A_PIXEL), dtype=torch.uint8)
    for number, box in enumerate(boxes):
        _resize_into(crop, pixels, box)
        frame[:size, number * size : (number + 1) * size] = crop
    return [(0, 0, size, size), (size, 0, size, size)]


def _resize_into(out: Tensor, pixels: Tensor, box: Box) -> None:
    """Cut a box out of uint8 [H, W, 4] on the CPU and resize it into [S, S, 4], which must be contiguous."""
    left, top, width, height = box
    cut = pixels[top : top + height, left : left + width].permute(2, 0, 1)[None]
    target = out.permute(2, 0, 1)[None]
    # What interpolate(antialias=True) calls, but into place; on x86 it is vectorised for uint8. Where the
    # target is not contiguous it writes elsewhere than it should.
    torch.ops.aten._upsample_bilinear2d_aa.out(cut, list(out.shape[:2]), False, None, None, out=target)


def _rounded(box: Box, down: int) -> Box:
    left, top, width, height = box
    x0, y0 = left // down, top // down
    return x0, y0, (left + width) // down - x0, (top + height) // down - y0


def _parts(records: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Views of the frames, uint8 [B, F, F, 4], and of the boxes, int32 [B, 2, 4], in records."""
    side = frame_side(size)
    frames = records[:, :-_BOX_BYTES].view(len(records), side, side, BYTES_A_PIXEL)
    return frames, records[:, -_BOX_BYTES:].view(torch.int32).view(len(records), 2, 4)
