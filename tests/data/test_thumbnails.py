from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monosem.data.image_files import ImageFiles
from monosem.data.thumbnails import thumbnails


def test_small_images_stay_as_they_are_and_large_ones_are_block_means() -> None:
    draw = torch.Generator().manual_seed(0)
    small = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=draw)
    assert torch.equal(next(thumbnails(small, [2])), small[2])
    large = torch.randint(256, (1, 3, 128, 128), dtype=torch.uint8, generator=draw)
    (found,) = thumbnails(large, [0])
    means = large[0].float().view(3, 64, 2, 64, 2).mean((2, 4))
    assert torch.equal(found, means.round().to(torch.uint8))


def test_files_that_are_gone_or_broken_are_none(tmp_path: Path) -> None:
    for name in ("here", "gone"):
        Image.fromarray(np.full((80, 80, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ("here.png", "gone.png", "broken.png")
    images = ImageFiles(tmp_path, names, np.zeros(3), np.arange(3), size=80)
    (tmp_path / "gone.png").unlink()
    here, gone, broken = thumbnails(images, [0, 1, 2])
    assert here.shape == (3, 64, 64)
    assert (here == 200).all()
    assert gone is None
    assert broken is None
