"""Image folders of mixed sizes and formats, and what happens to files that do not decode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monosem.core.errors import InputError
from monosem.data.image_folder import read_image_folder

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(
    path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 12), mode: str = "RGB"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, five training images of several formats and sizes, two test images."""
    paint(tmp_path / "train/apple/a.png", RED, (30, 20))
    paint(tmp_path / "train/apple/b.JPEG", RED, (9, 40))
    paint(tmp_path / "train/apple/deeper/c.webp", RED)
    paint(tmp_path / "train/pear/d.png", GREEN, mode="P")
    paint(tmp_path / "train/pear/e.png", GREEN, mode="L")
    paint(tmp_path / "test/apple/f.png", RED)
    paint(tmp_path / "test/pear/g.png", GREEN)
    (tmp_path / "train/notes.txt").write_text("no image")
    (tmp_path / "train/pear/notes.txt").write_text("no image")
    (tmp_path / "train/.cache").mkdir()
    return tmp_path


def test_folders_become_classes_and_images_squares_in_file_order(root: Path) -> None:
    train, test, names = read_image_folder(root, 16)
    assert names == ("apple", "pear")
    assert train.images.shape == (5, 3, 16, 16)
    assert train.images.dtype == np.uint8
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert train.positions.tolist() == [0, 1, 2, 3, 4]
    assert test.labels.tolist() == [0, 1]
    assert (train.images[0] == np.array(RED).reshape(3, 1, 1)).all()
    assert np.abs(train.images[1].astype(int) - np.array(RED).reshape(3, 1, 1)).max() <= 3
    assert (train.images[4] == train.images[4, 0]).all()


def test_the_shorter_side_is_resized_and_the_centre_kept(root: Path) -> None:
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    image.save(root / "train/apple/a.png")
    train, _, _ = read_image_folder(root, 16)
    middle = train.images[0][:, :, 2:-2]
    assert (middle == np.array(GREEN).reshape(3, 1, 1)).all()

    tall = Image.new("RGB", (40, 60), BLUE)
    tall.save(root / "train/apple/a.png")
    expected = np.asarray(tall.resize((16, 24), Image.Resampling.BICUBIC).crop((0, 4, 16, 20)))
    train, _, _ = read_image_folder(root, 16)
    np.testing.assert_array_equal(train.images[0].transpose(1, 2, 0), expected)


def test_val_stands_in_for_test(root: Path) -> None:
    (root / "test").rename(root / "val")
    _, test, _ = read_image_folder(root, 8)
    assert test.labels.tolist() == [0, 1]


def test_images_that_do_not_decode_are_named_and_counted(root: Path) -> None:
    whole = (root / "train/apple/a.png").read_bytes()
    (root / "train/apple/a.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/pear/d.png").write_bytes(b"no image at all")
    with pytest.raises(
        InputError, match=r"apple/a\.png: does not decode .* one of 2 such among the 5 images"
    ):
        read_image_folder(root, 8)

    train, _, _ = read_image_folder(root, 8, skip_bad=True)
    assert train.skipped == ("train/apple/a.png", "train/pear/d.png")
    assert train.labels.tolist() == [0, 0, 1]
    assert train.positions.tolist() == [1, 2, 4]
    assert train.n_files == 5
    assert (train.images[2] == train.images[2, 0]).all()


def test_a_split_without_one_readable_image_is_refused_even_when_skipping(root: Path) -> None:
    for path in root.glob("test/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="not one of its 2 images decodes"):
        read_image_folder(root, 8, skip_bad=True)


def test_folders_of_another_shape_are_refused_by_name(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere/train: no such folder"):
        read_image_folder(root / "nowhere", 8)
    paint(root / "test/quince/h.png", BLUE)
    with pytest.raises(InputError, match="test/quince: no class of this name"):
        read_image_folder(root, 8)
    (root / "train/quince").mkdir()
    with pytest.raises(InputError, match="train/quince: holds no images"):
        read_image_folder(root, 8)
    (root / "empty/train").mkdir(parents=True)
    with pytest.raises(InputError, match="empty/train: holds no class folders"):
        read_image_folder(root / "empty", 8)
