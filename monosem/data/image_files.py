"""Images that stay on the disk: decoded when needed, by processes of their own, handed over as uint8.

What is read depends on the rows asked for and the seed alone, never on how many processes read it.
"""

import math
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from monosem.core.errors import InputError, MonosemError
from monosem.core.seeding import stream_seed
from monosem.data.decode import DECODE_ERRORS, Box, decode_centre, decode_crops, explain
from monosem.data.views import CROP_ATTEMPTS, ViewSettings

_MOST_WORKERS = 32
_AHEAD = 2  # batches each process prepares in advance; they lie in shared memory


@dataclass(frozen=True)
class ImageFiles:
    """N image files below `root`, to be read as RGB squares of `size` pixels; `shape` is [N, 3, size, size].

    `ids` (int64 [N]) name the samples' random streams, `byte_sizes` (int64 [N]) are those of the files.
    `workers` processes decode: None for one a CPU this process may use, 0 for this process itself.
    """

    root: Path
    paths: tuple[str, ...]
    byte_sizes: np.ndarray
    ids: np.ndarray
    size: int
    workers: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Self:
        """The files of these rows alone (int64 [M])."""
        index = rows.cpu().numpy()
        paths = tuple(self.paths[row] for row in index)
        return replace(self, paths=paths, byte_sizes=self.byte_sizes[index], ids=self.ids[index])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As if it were a uint8 tensor [N, 3, S, S]."""
        return len(self), 3, self.size, self.size

    def identity(self) -> tuple[np.ndarray, ...]:
        """Arrays that tell these images from others, without reading them: paths, sizes, how they are cut.

        A file that is replaced by another of the same name and length goes unnoticed: to hash ImageNet-100's
        13 GB would hold up every start for minutes.
        """
        names = np.frombuffer(os.fsencode("\0".join(self.paths)), dtype=np.uint8)
        return names, self.byte_sizes, np.array([self.size])

    def blocks(
        self, rows: Tensor | None = None, batch_size: int = 256, workers: int | None = None
    ) -> Iterator[Tensor]:
        """The centres of the images as `decode_centre` cuts them, uint8 [B, 3, S, S], in the order of `rows`.

        Raises:
            InputError: a file that does not decode (named).
        """
        chosen = torch.arange(len(self)) if rows is None else rows
        batches = chosen.split(batch_size)  # type: ignore[no-untyped-call]
        return _read(self._centres, batches, self._processes(workers, len(batches)))

    def crop_batches(
        self,
        batches: Iterable[Tensor],
        views: ViewSettings,
        seed: int,
        epoch: int,
        workers: int | None = None,
    ) -> Iterator[Tensor]:
        """Two random resized crops of every image: uint8 [2, B, 3, S, S] for each batch of rows (int64 [B]).

        Boxes are drawn on the full-size image as `views` says, from a stream named by the seed, the epoch
        and the sample's id: neither batches, workers, processes nor a resumed run change them. An image is
        decoded once for both. In memory the channels come last.

        Raises:
            InputError: a file that does not decode (named).
            MonosemError: a decoding process died.
        """
        read = partial(self._crops, views=views, seed=seed, epoch=epoch)
        most = len(batches) if isinstance(batches, list | tuple) else None
        return _read(read, batches, self._processes(workers, most))

    def _processes(self, asked: int | None, most: int | None) -> int:
        wanted = self.workers if asked is None else asked
        wanted = usual_workers() if wanted is None else wanted
        return wanted if most is None else min(wanted, most)

    def _centres(self, rows: list[int]) -> Tensor:
        out = _empty(len(rows), self.size, self.size, 3)
        pixels = out.permute(0, 3, 1, 2).numpy()
        for place, row in enumerate(rows):
            path = self.root / self.paths[row]
            with _naming(path):
                pixels[place] = decode_centre(path, self.size)
        return out.permute(0, 3, 1, 2)

    def _crops(self, rows: list[int], views: ViewSettings, seed: int, epoch: int) -> Tensor:
        out = _empty(2, len(rows), self.size, self.size, 3)
        for place, row in enumerate(rows):
            # A generator of Python's is set up in a tenth of the time that numpy's or torch's takes.
            stream = random.Random(stream_seed(seed, "crop", epoch, int(self.ids[row])))
            path = self.root / self.paths[row]
            with _naming(path):
                decode_crops(path, partial(draw_box, views=views, stream=stream), out[:, place])
        return out.permute(0, 1, 4, 2, 3)


def image_blocks(images: Tensor | ImageFiles, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
    """All images in order, in blocks of `batch_size`: which rows, and their pixels [B, C, H, W]."""
    starts = range(0, len(images), batch_size)
    slices = [slice(start, min(start + batch_size, len(images))) for start in starts]
    if isinstance(images, Tensor):
        return ((rows, images[rows]) for rows in slices)
    return zip(slices, images.blocks(batch_size=batch_size), strict=True)


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
    ratio = min(max(width / height, low_ratio), high_ratio)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def usual_workers() -> int:
    """One decoding process for each CPU this process may use, shared with its siblings under a launcher."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within, a file's decoding errors become an InputError that names it."""
    try:
        yield
    except DECODE_ERRORS as error:
        raise InputError(
            f"{path}: does not decode ({explain(path, error)}); remove it or set data.on_bad_image=skip"
        ) from None


@dataclass(frozen=True)
class _Refusal:
    """An InputError on its way out of a decoding process: torch would bury its message in a traceback."""

    message: str


class _Batches(Dataset[Tensor | _Refusal]):
    """Its items are whole batches, named by their rows."""

    def __init__(self, read: Callable[[list[int]], Tensor]) -> None:
        self._read = read

    def __getitem__(self, rows: list[int]) -> Tensor | _Refusal:
        try:
            return self._read(rows)
        except InputError as error:
            return _Refusal(str(error))


def _read(read: Callable[[list[int]], Tensor], batches: Iterable[Tensor], workers: int) -> Iterator[Tensor]:
    """`read` of every batch, in order, done by so many processes (0: this one)."""
    loader = DataLoader(
        _Batches(read),
        batch_size=None,
        sampler=(rows.tolist() for rows in batches),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_interrupts_to_parent if workers else None,
        generator=torch.Generator(),  # else the global one would be drawn from
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; these children decode and touch nothing of the threads'.
        warnings.simplefilter("ignore", DeprecationWarning)
        items = iter(loader)
    try:
        while (item := _next(items, workers)) is not None:
            if isinstance(item, _Refusal):
                raise InputError(item.message)
            yield item
    finally:
        del items  # ends the processes now; a traceback might keep this frame, and them, for long


def _next(items: Iterator[Tensor | _Refusal], workers: int) -> Tensor | _Refusal | None:
    try:
        return next(items, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MonosemError(
            f"a process that decodes images died ({str(error).splitlines()[0]}); if memory or /dev/shm is "
            f"too small for {_AHEAD} batches for each of {workers} processes, set data.workers lower"
        ) from error


def _leave_interrupts_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _empty(*shape: int) -> Tensor:
    """Uninitialised uint8; in a decoding process in shared memory, so that handing it over copies nothing."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
