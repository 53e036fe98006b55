"""Reading CIFAR folders: a small one made here, and the real CIFAR-100 where it is at hand."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monosem.core.errors import InputError
from monosem.data.cifar import CIFAR100, CifarLayout, read_cifar

NAMES = ["cat", "dog", "frog"]


class SmallCifar:
    """A CIFAR folder of 2 x 4 training and 3 test images, and the layout that knows its md5 sums."""

    def __init__(self, root: Path) -> None:
        self.root = root
        generator = np.random.default_rng(0)
        self.batches: dict[str, dict[str, Any]] = {
            name: {"data": generator.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": labels}
            for name, n, labels in (
                ("one", 4, [0, 1, 2, 0]),
                ("two", 4, [2, 1, 0, 1]),
                ("test", 3, [1, 1, 2]),
            )
        }
        (root / "small").mkdir()
        self.layout = CifarLayout(
            folder="small",
            url="https://example.org/small.tar.gz",
            archive_md5="0" * 32,
            train={name: (self.write(name, self.batches[name]),) for name in ("one", "two")},
            test={"test": (self.write("test", self.batches["test"]),)},
            meta={"meta": (self.write("meta", {"names": NAMES}),)},
            labels_key="labels",
            names_key="names",
        )

    def write(self, name: str, batch: Any, protocol: int = 2) -> str:
        """Write one pickle; its md5."""
        content = pickle.dumps(batch, protocol)
        (self.root / "small" / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def accepting(self, name: str, md5: str) -> CifarLayout:
        """The layout that accepts another md5 for the test batch or the meta file."""
        return (
            replace(self.layout, test={"test": (md5,)})
            if name == "test"
            else replace(self.layout, meta={"meta": (md5,)})
        )


@pytest.fixture
def small(tmp_path: Path) -> SmallCifar:
    return SmallCifar(tmp_path)


def test_batches_are_joined_in_order_with_channels_first(small: SmallCifar) -> None:
    arrays = read_cifar(small.root, small.layout)
    assert arrays.train_images.shape == (8, 3, 32, 32)
    assert arrays.train_images.dtype == np.uint8
    assert arrays.train_labels.tolist() == [0, 1, 2, 0, 2, 1, 0, 1]
    assert arrays.test_labels.tolist() == [1, 1, 2]
    assert arrays.class_names == ("cat", "dog", "frog")
    # The canonical rows hold 1,024 red values, then green, then blue, each row by row.
    assert arrays.train_images[5, 2, 3, 7] == small.batches["two"]["data"][1, 2 * 1024 + 3 * 32 + 7]


def test_the_same_content_in_another_pickle_is_accepted_by_its_own_md5(small: SmallCifar) -> None:
    batch = small.batches["test"]
    content = hashlib.md5(batch["data"].tobytes() + bytes(batch["labels"])).hexdigest()
    small.write("test", batch, protocol=4)
    with pytest.raises(InputError, match="wrong md5"):
        read_cifar(small.root, small.layout)
    assert read_cifar(small.root, small.accepting("test", content)).test_labels.tolist() == [1, 1, 2]


@pytest.mark.parametrize("change", ["pixel", "label", "name"])
def test_one_changed_value_is_a_wrong_md5(small: SmallCifar, change: str) -> None:
    batch = small.batches["test"]
    if change == "pixel":
        batch["data"][2, 5] ^= 1
    elif change == "label":
        batch["labels"][0] = 0
    if change == "name":
        small.write("meta", {"names": ["cat", "dog", "toad"]})
    else:
        small.write("test", batch)
    file = "meta" if change == "name" else "test"
    with pytest.raises(InputError, match=rf"small/{file}: wrong md5 .* and the content differs"):
        read_cifar(small.root, small.layout)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 3]}, r"label 3 of image 1 is outside 0\.\.2"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "cat"]}, "label 'cat' of image 1"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "no list of 2 labels"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, "no uint8 array"),
        ({"data": np.zeros((2, 100), np.uint8), "labels": [0, 1]}, "no uint8 array"),
        ({"labels": [0, 1]}, "no uint8 array"),
        ([1, 2], "holds no CIFAR batch but a list"),
    ],
)
def test_batches_of_another_make_are_refused(small: SmallCifar, batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_cifar(small.root, small.accepting("test", small.write("test", batch)))


def test_meta_without_names_is_refused(small: SmallCifar) -> None:
    with pytest.raises(InputError, match="holds no list `names`"):
        read_cifar(small.root, small.accepting("meta", small.write("meta", {"other": []})))


def test_missing_truncated_and_executing_files_are_named(small: SmallCifar) -> None:
    path = small.root / "small" / "test"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="small/test: truncated or damaged pickle"):
        read_cifar(small.root, small.layout)
    path.write_bytes(b"cposix\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(InputError, match=r"small/test: refused, this pickle calls posix\.system"):
        read_cifar(small.root, small.layout)
    path.unlink()
    with pytest.raises(InputError, match=r"small/test: no such file; set download to true"):
        read_cifar(small.root, small.layout)


CIFAR100_ROOT = Path(__file__).parents[2] / "data"


@pytest.mark.skipif(not (CIFAR100_ROOT / CIFAR100.folder / "train").exists(), reason="CIFAR-100 is not here")
def test_the_real_cifar100_passes_its_checks() -> None:
    arrays = read_cifar(CIFAR100_ROOT, CIFAR100)
    assert arrays.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(arrays.train_labels).tolist() == [500] * 100
    assert np.bincount(arrays.test_labels).tolist() == [100] * 100
    assert arrays.class_names[:2] == ("apple", "aquarium_fish")
