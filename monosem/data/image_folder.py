"""Image folders: `root/train/<class>/...` and `root/test/<class>/...` (or `val`), images of any size."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monosem.core.errors import InputError
from monosem.data.decode import DECODE_ERRORS, check_header, decode_centre, explain
from monosem.data.image_files import ImageFiles

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class FolderSplit:
    """One split: images uint8 [N, 3, S, S] or files of that shape, labels and positions int64 [N].

    A position is the image's place among all files of the split, so that skipping a file moves no other.
    `skipped` holds the paths of the images that do not decode, below the root.
    """

    images: np.ndarray | ImageFiles
    labels: np.ndarray
    positions: np.ndarray
    n_files: int
    skipped: tuple[str, ...]


def read_image_folder(
    root: Path,
    image_size: int,
    skip_bad: bool = False,
    *,
    classes: Sequence[str] | None = None,
    on_disk: bool = False,
    workers: int | None = None,
) -> tuple[FolderSplit, FolderSplit, tuple[str, ...]]:
    """Train split, test split (`test`, else `val`) and the class names, which are the folders' in order.

    Images become RGB (alpha is dropped, 16 bits become 8), their shorter side is resized to `image_size`
    (bicubic) and the centre is cut out. With `classes` both splits are restricted to these folders.

    `on_disk` leaves the pixels where they are: the headers alone are read, unless `skip_bad` asks for every
    file to be decoded once; `workers` processes decode later, see `ImageFiles`.

    Raises:
        InputError: a folder is missing, empty, without images or cannot be read, some of `classes` are
            missing, the test split has a class of its own, or images do not decode and `skip_bad` is off
            (counted, the first one named).
    """
    train_folder, test_folder = root / "train", _test_folder(root)
    found = {folder: _class_names(folder) for folder in (train_folder, test_folder)}
    class_names = found[train_folder]
    if classes is not None:
        class_names = tuple(sorted(classes))
        _require(class_names, found)
        found = dict.fromkeys(found, class_names)
    for name in found[test_folder]:
        if name not in class_names:
            raise InputError(f"{test_folder / name}: no class of this name in {train_folder}")
    splits: list[FolderSplit] = []
    for folder, names in found.items():
        files = [(path, class_names.index(name)) for name in names for path in _image_files(folder / name)]
        split = _Split(root, folder, files, image_size, skip_bad)
        first_id = splits[0].n_files if splits else 0
        splits.append(split.listed(first_id, workers) if on_disk else split.read())
    train, test = splits
    for label, name in enumerate(class_names):
        if label not in train.labels:
            raise InputError(
                f"{train_folder / name}: not one of its images decodes; replace them or remove it"
            )
    return train, test, class_names


def _test_folder(root: Path) -> Path:
    """`test`, or `val` where that holds the labelled images, as ImageNet's does."""
    test, val = root / "test", root / "val"
    if test.is_dir() and (not val.is_dir() or _subfolders(test)):
        return test
    return val


def _class_names(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise InputError(f"{split}: no such folder; an image folder holds train/<class> and test/<class>")
    names = _subfolders(split)
    if not names:
        raise InputError(f"{split}: holds no class folders; an image folder holds train/<class>/<image>")
    return names


def _subfolders(folder: Path) -> tuple[str, ...]:
    with _permission_explained(), os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def _require(class_names: tuple[str, ...], found: dict[Path, tuple[str, ...]]) -> None:
    lacking = {name: [f.name for f, there in found.items() if name not in there] for name in class_names}
    missing = [f"{name} ({', '.join(where)})" for name, where in lacking.items() if where]
    if missing:
        root = next(iter(found)).parent
        raise InputError(f"{root}: {len(missing)} classes are missing: {', '.join(missing)}")


def _image_files(folder: Path) -> list[Path]:
    """The images of a class, in order; some data sets (Tiny-ImageNet) keep them one level deeper."""

    def refuse(error: OSError) -> None:
        raise error

    with _permission_explained():
        paths = sorted(
            Path(place, name)
            for place, _, names in os.walk(folder, onerror=refuse)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        )
    if not paths:
        raise InputError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))}); fill it or remove it")
    return paths


@contextmanager
def _permission_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
        ) from None


@dataclass(frozen=True)
class _Split:
    """The files of a split with their labels, about to be read or listed."""

    root: Path
    folder: Path
    files: list[tuple[Path, int]]
    image_size: int
    skip_bad: bool

    def read(self) -> FolderSplit:
        shape = len(self.files), 3, self.image_size, self.image_size
        images = np.empty(shape, dtype=np.uint8)

        def decode(index: int) -> None:
            images[index] = decode_centre(self.files[index][0], self.image_size)

        good, skipped = self._try_all(decode)
        return self._split(images[good] if skipped else images, good, skipped)

    def listed(self, first_id: int, workers: int | None) -> FolderSplit:
        byte_sizes = np.empty(len(self.files), dtype=np.int64)

        def check(index: int) -> None:
            path, _ = self.files[index]
            byte_sizes[index] = check_header(path)
            if self.skip_bad:
                decode_centre(path, self.image_size)

        good, skipped = self._try_all(check)
        paths = tuple(self._relative(index) for index in good)
        images = ImageFiles(self.root, paths, byte_sizes[good], first_id + good, self.image_size, workers)
        return self._split(images, good, skipped)

    def _try_all(self, work: Callable[[int], None]) -> tuple[np.ndarray, tuple[str, ...]]:
        """`work` on each file's index; the indices of the good ones, and the paths of the others."""

        def problem(index: int) -> str | None:
            try:
                work(index)
            except DECODE_ERRORS as error:
                return explain(self.files[index][0], error)
            return None

        # Pillow decodes without holding the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = list(pool.map(problem, range(len(self.files))))
        bad = [index for index, text in enumerate(problems) if text is not None]
        if bad and not self.skip_bad:
            raise InputError(
                f"{self.files[bad[0]][0]}: does not decode ({problems[bad[0]]}), one of {len(bad)} such "
                f"among the {len(self.files)} images of {self.folder}; remove them or set on_bad_image to "
                "skip"
            )
        if len(bad) == len(self.files):
            raise InputError(f"{self.folder}: not one of its {len(bad)} images decodes")
        good = np.array([index for index, text in enumerate(problems) if text is None])
        return good, tuple(self._relative(index) for index in bad)

    def _relative(self, index: int) -> str:
        return self.files[index][0].relative_to(self.root).as_posix()

    def _split(
        self, images: np.ndarray | ImageFiles, good: np.ndarray, skipped: tuple[str, ...]
    ) -> FolderSplit:
        labels = np.array([label for _, label in self.files], dtype=np.int64)[good]
        return FolderSplit(images, labels, good, len(self.files), skipped)
