"""Small pictures of samples, for people to look at: in memory or from files that may have moved meanwhile."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from monosem.data.decode import DECODE_ERRORS, decode_centre
from monosem.data.image_files import ImageFiles

Pictures = Callable[[NDArray[np.int64]], Iterable[NDArray[np.uint8] | None]]
"""Rows -> the picture of each, uint8 [C, H, W] with C = 1 or 3; None for one that cannot be read."""

SIDE = 64
"""Pixels; larger pictures are shrunk to it."""


def thumbnails(images: Tensor | ImageFiles, rows: Iterable[int]) -> Iterator[Tensor | None]:
    """The images of these rows, uint8 [C, h, w] of at most 64 x 64 pixels; None for a file that is gone."""
    for row in rows:
        image = images[row] if isinstance(images, Tensor) else _from_file(images, row)
        yield None if image is None else _shrunk(image)


def _from_file(images: ImageFiles, row: int) -> Tensor | None:
    try:
        return torch.tensor(decode_centre(images.root / images.paths[row], images.size))
    except DECODE_ERRORS:
        return None


def _shrunk(image: Tensor) -> Tensor:
    scale = SIDE / max(image.shape[1:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    small = F.interpolate(image[None].float(), size, mode="area")[0]
    return small.round().to(torch.uint8)
