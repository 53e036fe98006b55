"""Images a second from disk: two crops of each, against the limit that decoding alone sets the same workers.

    python benchmarks/disk.py [--folder DIR] [--size 224] [--workers 2] [--images 2048] [--repeats 5]
                              [--device cuda]

Without a folder of images, textured ones of ImageNet's usual size are made: 500 x 375 pixels, about 110 kB.
In every repeat all are measured one after the other, in processes of the same kind and number:
`decode` opens each file, decodes it and drops it; `decode + convert` does what the usual loader does,
`Image.open(file).convert("RGB")`; `handed over` draws the boxes, decodes and hands both over, which is all
that workers do for pretraining; `two crops` is `ImageFiles.crop_batches`, where the device cuts and resizes.
With the CPU as the device, that is the main process, which needs a core that no worker uses.
Medians of repeats; ratios to `decode` are medians of the repeats' ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from monosem.data.decoding_workers import read_batches, usual_workers
from monosem.data.image_files import ImageFiles, _record_shape
from monosem.data.views import ViewSettings

DIFFERENT_IMAGES = 128
BATCH = 32


def textured(rng: np.random.Generator, width: int = 500, height: int = 375) -> Image.Image:
    """Colours at every scale, the finer the fainter, as in photographs."""
    total = np.zeros((height, width, 3))
    cells, strength = 3, 1.0
    while cells < 2 * width:
        rows, columns = max(2, min(height, cells * height // width)), min(width, cells)
        texture = rng.standard_normal((rows, columns, 1)) + 0.35 * rng.standard_normal((rows, columns, 3))
        for channel in range(3):
            plane = Image.fromarray(texture[:, :, channel].astype(np.float32))
            total[:, :, channel] += strength * np.asarray(
                plane.resize((width, height), Image.Resampling.BICUBIC)
            )
        cells, strength = 2 * cells, 0.9 * strength
    return Image.fromarray((128 + 55 * total / total.std()).clip(0, 255).astype(np.uint8))


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(DIFFERENT_IMAGES):
        textured(rng).save(folder / f"{number:03}.jpg", quality=90)


def files_of(folder: Path, n: int, size: int) -> ImageFiles:
    """`n` images of a folder, over and over where it holds fewer."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"{folder}: holds no JPEGs")
    paths = [found[row % len(found)] for row in range(n)]
    byte_sizes = np.array([path.stat().st_size for path in paths])
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    return ImageFiles(folder, names, byte_sizes, np.arange(n), size)


def decode_and_drop(rows: list[int], _: Tensor, *, files: ImageFiles, convert: bool) -> None:
    for row in rows:
        with Image.open(files.root / files.paths[row]) as image:
            if convert:
                image.convert("RGB")
            else:
                image.load()


def one_byte(_: int) -> tuple[int, ...]:
    return (1,)


def images_per_second(items: Iterator[Tensor], batches: list[Tensor], workers: int) -> float:
    """Once processes have started and used all of their memory."""
    warm_up = 4 * workers
    started = 0.0
    for number, _ in enumerate(items, start=1):
        if number == warm_up:
            started = time.perf_counter()
    return sum(len(rows) for rows in batches[warm_up:]) / (time.perf_counter() - started)


def measure(files: ImageFiles, workers: int, repeats: int, device: str) -> dict[str, list[float]]:
    batches = list(torch.arange(len(files)).split(BATCH))
    ways = {
        "decode": lambda: read_batches(
            partial(decode_and_drop, files=files, convert=False), batches, one_byte, workers=workers
        ),
        "decode + convert": lambda: read_batches(
            partial(decode_and_drop, files=files, convert=True), batches, one_byte, workers=workers
        ),
        "handed over": lambda: read_batches(
            partial(files._fill_records, views=ViewSettings(), seed=0, epoch=0),
            batches,
            partial(_record_shape, files.size),
            workers=workers,
            reuse=True,
        ),
        "two crops": lambda: files.crop_batches(
            batches, ViewSettings(), seed=0, epoch=0, workers=workers, device=device
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, start in ways.items():
            rates[name].append(images_per_second(start(), batches, workers))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=usual_workers())
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            make_images(Path(made))
        files = files_of(arguments.folder or Path(made), arguments.images, arguments.size)
        print(
            f"{len(files)} JPEGs of {files.byte_sizes.mean() / 1e3:.0f} kB, two crops of {files.size} pixels,"
        )
        print(f"{arguments.workers} workers, median of {arguments.repeats}")
        rates = measure(files, arguments.workers, arguments.repeats, arguments.device)
    print(f"{'':18}{'images/s':>9}{'to decode':>11}")
    for name, found in rates.items():
        ratio = statistics.median(rate / limit for rate, limit in zip(found, rates["decode"], strict=True))
        print(f"{name:18}{statistics.median(found):9,.0f}{ratio:11.2f}")


if __name__ == "__main__":
    main()
