"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their canonical pickled folders, checked by md5."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosem.core.errors import InputError
from monosem.data.download import fetch_from_archive
from monosem.data.pickled import read_plain_pickle


@dataclass(frozen=True)
class CifarLayout:
    """Where one CIFAR keeps what, and what its files must be.

    `train`, `test` and `meta` map file names to the md5 sums accepted for them: the canonical file's, and
    where known that of its content, so that a faithful copy written by another pickle is accepted too.
    """

    folder: str
    url: str
    archive_md5: str
    train: Mapping[str, tuple[str, ...]]
    test: Mapping[str, tuple[str, ...]]
    meta: Mapping[str, tuple[str, ...]]
    labels_key: str
    names_key: str


CIFAR10 = CifarLayout(
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    train={
        "data_batch_1": ("c99cafc152244af753f735de768cd75f",),
        "data_batch_2": ("d4bba439e000b95fd0a9bffe97cbabec",),
        "data_batch_3": ("54ebc095f3ab1f0389bbae665268c751",),
        "data_batch_4": ("634d18415352ddfa80567beed471001a",),
        "data_batch_5": ("482c414d41f54cd18b22e5b47cb7c3cb",),
    },
    test={"test_batch": ("40351d587109b95175f43aff81a1287e",)},
    meta={"batches.meta": ("5ff9c542aee3614f3951f8cda6e48888",)},
    labels_key="labels",
    names_key="label_names",
)
CIFAR100 = CifarLayout(
    folder="cifar-100-python",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    train={"train": ("16019d7e3df5f24257cddd939b257f8d", "5c7680383d9d266e2dd95435eea5ae97")},
    test={"test": ("f0ef6b0ae62326f3e7ffdfab6717acfc", "359513b401e41dbb9c2c819294e5564b")},
    meta={"meta": ("7973b15100ade9c7d40fb424638fde48", "18d2388358c0483ca2d2be3aac2d399e")},
    labels_key="fine_labels",
    names_key="fine_label_names",
)


@dataclass(frozen=True)
class CifarArrays:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of both splits, in the original order."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def read_cifar(root: Path, layout: CifarLayout, download: bool = False) -> CifarArrays:
    """Read both splits from `root/<canonical folder>`, downloading the folder first if asked and absent.

    Raises:
        InputError: a file is missing, truncated, of another md5, or a pickle that would run code.
    """
    folder = root / layout.folder
    files = [*layout.train, *layout.test, *layout.meta]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing and download:
        members = [f"{layout.folder}/{name}" for name in files]
        fetch_from_archive(layout.url, layout.archive_md5, members, folder)
    elif missing:
        raise InputError(
            f"{folder / missing[0]}: no such file; set download to true, or unpack {layout.url} into {root}"
        )
    class_names = _read_names(folder, layout)
    train_images, train_labels = _read_split(folder, layout.train, layout.labels_key, len(class_names))
    test_images, test_labels = _read_split(folder, layout.test, layout.labels_key, len(class_names))
    return CifarArrays(train_images, train_labels, test_images, test_labels, class_names)


def _read_names(folder: Path, layout: CifarLayout) -> tuple[str, ...]:
    ((name, accepted),) = layout.meta.items()
    path = folder / name
    content, meta = _read_mapping(path)
    names = meta.get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise InputError(f"{path}: holds no list `{layout.names_key}`; get the file again")
    _check_md5(path, accepted, content, "\n".join(names).encode())
    return tuple(names)


def _read_split(
    folder: Path, files: Mapping[str, tuple[str, ...]], labels_key: str, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    parts = [_read_batch(folder / name, md5s, labels_key, n_classes) for name, md5s in files.items()]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_batch(
    path: Path, accepted: tuple[str, ...], labels_key: str, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    content, batch = _read_mapping(path)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise InputError(f"{path}: `data` is no uint8 array of rows of 3072 pixels; get the file again")
    labels = batch.get(labels_key)
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise InputError(f"{path}: `{labels_key}` is no list of {len(pixels)} labels; get the file again")
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < n_classes:
            raise InputError(f"{path}: label {label!r} of image {row} is outside 0..{n_classes - 1}")
    _check_md5(path, accepted, content, np.ascontiguousarray(pixels).data, bytes(labels))
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read_mapping(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    batch = read_plain_pickle(content, path)
    if not isinstance(batch, dict):
        raise InputError(f"{path}: holds no CIFAR batch but a {type(batch).__name__}; get the file again")
    return content, batch


def _check_md5(path: Path, accepted: tuple[str, ...], content: bytes, *values: bytes | memoryview) -> None:
    """Compare the md5 of the file, and else of the values in it, with those accepted."""
    of_file = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if of_file in accepted:
        return
    of_values = hashlib.md5(usedforsecurity=False)
    for part in values:
        of_values.update(part)
    if of_values.hexdigest() not in accepted:
        raise InputError(
            f"{path}: wrong md5 {of_file}, not {accepted[0]}, and the content differs too; get it again"
        )
