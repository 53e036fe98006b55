"""Image folders: `root/train/<class>/...` and `root/test/<class>/...` (or `val`), images of any size."""

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from monosem.core.errors import InputError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# What Pillow raises, by format, for files that are no image or break off.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class FolderSplit:
    """One split: images uint8 [N, 3, S, S], labels and positions int64 [N].

    A position is the image's place among all files of the split, so that skipping a file moves no other.
    `skipped` holds the paths of the images that do not decode, below the root.
    """

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    n_files: int
    skipped: tuple[str, ...]


def read_image_folder(
    root: Path, image_size: int, skip_bad: bool = False
) -> tuple[FolderSplit, FolderSplit, tuple[str, ...]]:
    """Train split, test split (`test`, else `val`) and the class names, which are the folders' in order.

    Images become RGB, their shorter side is resized to `image_size` (bicubic) and the centre is cut out.

    Raises:
        InputError: a folder is missing or empty, the test split has a class of its own, or images do not
            decode and `skip_bad` is off (counted, the first one named).
    """
    class_names = _class_names(root / "train")
    test_folder = root / "test" if (root / "test").is_dir() else root / "val"
    for name in _class_names(test_folder):
        if name not in class_names:
            raise InputError(f"{test_folder / name}: no class of this name in {root / 'train'}")
    train = _read_split(root, root / "train", class_names, image_size, skip_bad)
    for label, name in enumerate(class_names):
        if label not in train.labels:
            raise InputError(f"{root / 'train' / name}: holds no images; fill it or remove it")
    test = _read_split(root, test_folder, class_names, image_size, skip_bad)
    return train, test, class_names


def _class_names(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise InputError(f"{split}: no such folder; an image folder holds train/<class> and test/<class>")
    names = tuple(sorted(entry.name for entry in split.iterdir() if _is_visible_folder(entry)))
    if not names:
        raise InputError(f"{split}: holds no class folders; an image folder holds train/<class>/<image>")
    return names


def _is_visible_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _image_files(split: Path, class_names: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(class_names):
        # rglob, since Tiny-ImageNet keeps its images one level deeper.
        for path in sorted((split / name).rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                yield path, label


def _read_split(
    root: Path, split: Path, class_names: tuple[str, ...], image_size: int, skip_bad: bool
) -> FolderSplit:
    files = list(_image_files(split, class_names))
    if not files:
        raise InputError(f"{split}: holds no images ({', '.join(sorted(SUFFIXES))})")
    images = np.empty((len(files), 3, image_size, image_size), dtype=np.uint8)

    def decode(index: int) -> str | None:
        try:
            images[index] = _decode(files[index][0], image_size)
        except _DECODE_ERRORS as error:
            return str(error) or type(error).__name__
        return None

    # Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(decode, range(len(files))))
    bad = [index for index, problem in enumerate(problems) if problem is not None]
    if bad and not skip_bad:
        raise InputError(
            f"{files[bad[0]][0]}: does not decode ({problems[bad[0]]}), one of {len(bad)} such among the "
            f"{len(files)} images of {split}; remove them or set on_bad_image to skip"
        )
    if len(bad) == len(files):
        raise InputError(f"{split}: not one of its {len(files)} images decodes")
    good = np.array([index for index, problem in enumerate(problems) if problem is None])
    return FolderSplit(
        images=images[good] if bad else images,
        labels=np.array([label for _, label in files], dtype=np.int64)[good],
        positions=good,
        n_files=len(files),
        skipped=tuple(files[index][0].relative_to(root).as_posix() for index in bad),
    )


def _decode(path: Path, size: int) -> np.ndarray:
    """One image as uint8 [3, size, size]."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = size / min(rgb.size)
    width, height = (max(size, round(side * scale)) for side in rgb.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
