"""Images that stay on the disk: decoded when needed, by processes of their own, handed over as uint8."""

import os
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from monosem.core.seeding import stream_seed
from monosem.data.crops import cut_records, record_bytes, write_records
from monosem.data.decode import decode_centre, decoding
from monosem.data.decoding_workers import read_batches, usual_workers
from monosem.data.views import ViewSettings

_PART = 32  # images a process hands over at a time; for crops of 224 pixels it keeps 100 MB in shared memory


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

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The files of these rows alone (int64 [M], or a slice)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu().numpy()]
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
        processes = min(self._processes(workers), len(batches))
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
        decoded once for both; they are cut and resized on `device`. In memory the channels come last.

        Raises:
            InputError: a file that does not decode (named).
            MonosemError: a decoding process died.
        """
        sizes: deque[int] = deque()

        def in_parts() -> Iterator[Tensor]:
            for rows in batches:
                sizes.append(len(rows))
                yield from rows.split(_PART)  # type: ignore[no-untyped-call]

        fill = partial(self._fill_records, views=views, seed=seed, epoch=epoch)
        shape = partial(_record_shape, self.size)
        pin = torch.device(device).type == "cuda"
        parts: list[Tensor] = []
        for records in read_batches(
            fill, in_parts(), shape, workers=self._processes(workers), reuse=True, pin=pin
        ):
            parts.append(cut_records(records.to(device, non_blocking=True), self.size))
            if sum(part.shape[1] for part in parts) == sizes[0]:
                crops = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
                yield crops[..., :3].permute(0, 1, 4, 2, 3)
                sizes.popleft()
                parts = []

    def _processes(self, asked: int | None) -> int:
        wanted = self.workers if asked is None else asked
        return usual_workers() if wanted is None else wanted

    def _fill_centres(self, rows: list[int], out: Tensor) -> None:
        pixels = out.permute(0, 3, 1, 2).numpy()
        for place, row in enumerate(rows):
            path = self.root / self.paths[row]
            with decoding(path):
                pixels[place] = decode_centre(path, self.size)

    def _fill_records(self, rows: list[int], out: Tensor, views: ViewSettings, seed: int, epoch: int) -> None:
        paths = [self.root / self.paths[row] for row in rows]
        # A generator of Python's is set up in a tenth of the time that numpy's or torch's takes.
        streams = [random.Random(stream_seed(seed, "crop", epoch, int(self.ids[row]))) for row in rows]
        write_records(paths, self.size, views, streams, out)


def image_blocks(images: Tensor | ImageFiles, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
    """All images in order, in blocks of `batch_size`: which rows, and their pixels [B, C, H, W]."""
    starts = range(0, len(images), batch_size)
    slices = [slice(start, min(start + batch_size, len(images))) for start in starts]
    if isinstance(images, Tensor):
        return ((rows, images[rows]) for rows in slices)
    return zip(slices, images.blocks(batch_size=batch_size), strict=True)


def _batch_shape(channels: int, size: int, n: int) -> tuple[int, ...]:
    return n, size, size, channels


def _record_shape(size: int, n: int) -> tuple[int, ...]:
    return n, record_bytes(size)
