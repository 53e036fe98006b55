"""Many small pictures on few sheets, so that a page shows hundreds without opening hundreds of files."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monosem.core.errors import InputError
from monosem.data.thumbnails import SIDE, Pictures

SHEET_SIDE, LARGEST_LOSSLESS = 1024, 16
_BATCH = 256
_GREY = 128


class Sprites(NamedTuple):
    """How sheets are laid out: pixels a picture, pictures a row; and which pictures are placeholders."""

    side: int
    columns: int
    missing: list[int]

    @property
    def per_sheet(self) -> int:
        """Sheets are square, but for the last."""
        return self.columns**2


def write_sprites(folder: Path, rows: NDArray[np.int64], pictures: Pictures) -> Sprites:
    """Write the pictures of `rows`, in this order, as `0.webp`, `1.webp`, ... into a new folder.

    Each fills a square of the largest side among the first ones, at most 64 px: larger pictures are shrunk to
    it, smaller ones centred. Sheets are lossless up to 16 px a picture. What cannot be read stays grey.

    Raises:
        InputError: fewer or more pictures than rows, or one that is not uint8 [1 or 3, H, W].
    """
    folder.mkdir()
    stream = _checked(rows, pictures)
    first = list(islice(stream, _BATCH))
    side = min(SIDE, max((max(p.shape[:2]) for p in first if p is not None), default=SIDE))
    layout = Sprites(side, max(1, SHEET_SIDE // side), [])
    for sheet, start in enumerate(range(0, len(rows), layout.per_sheet)):
        n = min(layout.per_sheet, len(rows) - start)
        height = -(-n // layout.columns)
        canvas = np.full((height * side, layout.columns * side, 3), _GREY, np.uint8)
        for place in range(n):
            picture = first[start + place] if start + place < len(first) else next(stream)
            if picture is None:
                layout.missing.append(start + place)
                continue
            thumb = _thumb(picture, side)
            row, column = divmod(place, layout.columns)
            top = row * side + (side - thumb.shape[0]) // 2
            left = column * side + (side - thumb.shape[1]) // 2
            canvas[top : top + thumb.shape[0], left : left + thumb.shape[1]] = thumb
        small = side <= LARGEST_LOSSLESS
        Image.fromarray(canvas).save(folder / f"{sheet}.webp", lossless=small, quality=90, method=4)
    return layout


def _checked(rows: NDArray[np.int64], pictures: Pictures) -> Iterator[NDArray[np.uint8] | None]:
    """Pictures [H, W, 3] of all rows, asked for some at a time."""
    for start in range(0, len(rows), _BATCH):
        asked = rows[start : start + _BATCH]
        given = list(pictures(asked))
        if len(given) != len(asked):
            raise InputError(
                f"asked for {len(asked)} pictures, got {len(given)}; give None for unreadable ones"
            )
        for row, picture in zip(asked, given, strict=True):
            if picture is None:
                yield None
                continue
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] not in (1, 3):
                raise InputError(
                    f"sample {row}: a picture must be uint8 [1 or 3, H, W], "
                    f"got {picture.dtype} {list(picture.shape)}"
                )
            yield np.broadcast_to(picture, (3, *picture.shape[1:])).transpose(1, 2, 0)


def _thumb(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if max(picture.shape[:2]) <= side:
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)
