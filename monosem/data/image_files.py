"""Images that stay on the disk: decoded when needed, by processes of their own, handed over as uint8."""

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import stream_seed
from monosem.data.decode import BYTES_A_PIXEL, DECODE_ERRORS, decode_centre, decode_crops, explain
from monosem.data.decoding_workers import read_batches, usual_workers
from monosem.data.views import ViewSettings


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
            MonosemError: a decoding process died.
        """
        chosen = torch.arange(len(self)) if rows is None else rows
        batches = chosen.split(batch_size)  # type: ignore[no-untyped-call]
        shape = partial(_batch_shape, 3, self.size)
        processes = self._processes(workers, len(batches))
        for block in read_batches(self._fill_centres, batches, shape, workers=processes):
            yield block.permute(0, 3, 1, 2)

    def crop_batches(
        self,
        batches: Iterable[Tensor],
        views: ViewSettings,
        seed: int,
        epoch: int,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[Tensor]:
        """Two random resized crops of every image: uint8 [2, B, 3, S, S] for each batch of rows (int64 [B]).

        Boxes are drawn on the full-size image as `views` says, from a stream named by the seed, the epoch
        and the sample's id: neither batches, workers, processes nor a resumed run change them. An image is
        decoded once for both. In memory the channels come last. On the CPU a batch is overwritten after the
        next is asked for: clone what is to be kept.

        Raises:
            InputError: a file that does not decode (named).
            MonosemError: a decoding process died.
        """
        fill = partial(self._fill_crops, views=views, seed=seed, epoch=epoch)
        shape = partial(_pair_shape, self.size)
        processes = self._processes(workers, len(batches) if isinstance(batches, list | tuple) else None)
        pin = torch.device(device).type == "cuda"
        for pairs in read_batches(fill, batches, shape, workers=processes, reuse=True, pin=pin):
            yield pairs.to(device, non_blocking=True)[..., :3].permute(0, 1, 4, 2, 3)

    def _processes(self, asked: int | None, most: int | None) -> int:
        wanted = self.workers if asked is None else asked
        wanted = usual_workers() if wanted is None else wanted
        return wanted if most is None else min(wanted, most)

    def _fill_centres(self, rows: list[int], out: Tensor) -> None:
        pixels = out.permute(0, 3, 1, 2).numpy()
        for place, row in enumerate(rows):
            with self._named(row) as path:
                pixels[place] = decode_centre(path, self.size)

    def _fill_crops(self, rows: list[int], out: Tensor, views: ViewSettings, seed: int, epoch: int) -> None:
        # What can be done for the whole batch is: after decoding an image, no Python is in the CPU's caches.
        # A generator of Python's is set up in a tenth of the time that numpy's or torch's takes.
        streams = [random.Random(stream_seed(seed, "crop", epoch, int(self.ids[row]))) for row in rows]
        targets = out.flatten(0, 1).permute(0, 3, 1, 2).unsqueeze(1).unbind()
        for place, row in enumerate(rows):
            with self._named(row) as path:
                decode_crops(path, views, streams[place], targets[place :: len(rows)])

    @contextmanager
    def _named(self, row: int) -> Iterator[Path]:
        """The row's path; its decoding errors become an InputError that names it."""
        path = self.root / self.paths[row]
        try:
            yield path
        except DECODE_ERRORS as error:
            raise InputError(
                f"{path}: does not decode ({explain(path, error)}); remove it or set data.on_bad_image=skip"
            ) from None


def image_blocks(images: Tensor | ImageFiles, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
    """All images in order, in blocks of `batch_size`: which rows, and their pixels [B, C, H, W]."""
    starts = range(0, len(images), batch_size)
    slices = [slice(start, min(start + batch_size, len(images))) for start in starts]
    if isinstance(images, Tensor):
        return ((rows, images[rows]) for rows in slices)
    return zip(slices, images.blocks(batch_size=batch_size), strict=True)


def _batch_shape(channels: int, size: int, n: int) -> tuple[int, ...]:
    return n, size, size, channels


def _pair_shape(size: int, n: int) -> tuple[int, ...]:
    return 2, n, size, size, BYTES_A_PIXEL
