"""Batches of features that may be larger than memory, in an order in which any can be gone back to."""

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import torch_stream
from monosem.data.feature_block import Block
from monosem.data.feature_set import FeatureSet
from monosem.data.rows import Inputs, take_rows
from monosem.data.window_order import WindowOrder, even_part
from monosem.measures.blocks import features_shape

WINDOW_BYTES = 512 * 2**20
_ORDER_BYTES = 8  # of a row's place in the shuffled order


class RowBatches:
    """Batches of the rows of features [N, D], every row once an epoch, shuffled by the seed and the epoch.

    Features in memory, and those on disk that fit `window_bytes` and are then held there, are shuffled as a
    whole: an epoch is `torch.randperm(N)` cut by `tensor_split`. Larger ones are read in windows and shuffled
    within each (`monosem.data.window_order`), the next one in a thread while one is used. The order follows
    from `seed`, the epoch, N and `batch_size`, and for features read in windows from `window_bytes` and the
    bytes of a row; not from how they are cut into shards, nor from the batch with which an epoch is begun.

    Args:
        batch_size: the largest batch; sizes within an epoch differ by one row at most.
        window_bytes: what rows on disk may take in memory, as they are stored: the two windows together, or
            the whole set. Every one of several processes takes as much; dense batches come on top.
        part: (number, count) of this process among several, each of which gets its part of every batch;
            parts differ by one row at most, and may be empty where a batch has fewer rows than processes.

    Attributes:
        n_batches: batches of an epoch.
        seconds_waited: how long batches have waited for the disk so far.

    Raises:
        InputError: features that are no table, or windows too small for a batch each.
    """

    def __init__(
        self,
        features: Inputs,
        batch_size: int,
        *,
        seed: int,
        window_bytes: int = WINDOW_BYTES,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._n_rows, self._dim = features_shape(features)
        self.n_batches = -(-self._n_rows // batch_size)
        self.seconds_waited = 0.0
        self._features = features
        self._held: Inputs | None = None
        self._seed = seed
        self._part = part
        self._windows = _windows_of(features, self.n_batches, window_bytes, seed)

    @property
    def n_windows(self) -> int:
        """Windows of an epoch: 1 if it is shuffled as a whole."""
        return self._windows.order.n_windows if self._windows else 1

    def rows_in(self, batch: int) -> int:
        """Rows of a batch, those of all processes together."""
        return len(even_part(self._n_rows, self.n_batches, batch))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch from number `first` on, dense [n, D]: float64 if given so, else float32.

        Windows before the one that holds batch `first` are not read.

        Raises:
            InputError: a file that is missing, shorter than it was, or changed since the set was opened.
        """
        if self._windows is None:
            features = self._in_memory()
            order = torch.randperm(self._n_rows, generator=torch_stream(self._seed, "sae", "order", epoch))
            for rows in order.tensor_split(self.n_batches)[first:]:
                yield take_rows(features, self._own(rows))
        else:
            yield from self._windowed(self._windows, epoch, first)

    def _windowed(self, windows: "_Windows", epoch: int, first: int) -> Iterator[Tensor]:
        if first >= self.n_batches:
            return
        order = windows.order
        with closing(windows.read(epoch, order.window_of(first))) as blocks:
            asked = time.perf_counter()
            for window, block in blocks:
                self.seconds_waited += time.perf_counter() - asked
                for batch, rows in zip(order.batches(window), order.shuffled(epoch, window), strict=True):
                    if batch >= first:
                        yield torch.from_numpy(block[self._own(rows).numpy()].dense(self._dim))
                asked = time.perf_counter()

    def _in_memory(self) -> Inputs:
        """The features, with those on disk read once and looked at again before every epoch."""
        if not isinstance(self._features, FeatureSet) or not self._features.is_on_disk:
            return self._features
        asked = time.perf_counter()
        self._features.check_unchanged()
        if self._held is None:
            self._held = self._features.in_memory()
        self.seconds_waited += time.perf_counter() - asked
        return self._held

    def _own(self, rows: Tensor) -> Tensor:
        number, count = self._part
        return rows.tensor_split(count)[number]


@dataclass(frozen=True)
class _Windows:
    """Features on disk, read window by window."""

    features: FeatureSet
    order: WindowOrder

    def read(self, epoch: int, first: int) -> Generator[tuple[int, Block], None, None]:
        """The windows from number `first` on, as stored; each lasts until the next one is asked for."""
        given_up = threading.Event()
        room = [self.features.empty_block(self.order.largest_window) for _ in range(2)]

        def read(window: int) -> Block:
            block, done = room[window % 2], 0
            for piece in self.order.pieces(epoch, window):
                if given_up.is_set():
                    break
                self.features.read_into(piece.start, block[done : done + len(piece)])
                done += len(piece)
            return block[:done]

        with ThreadPoolExecutor(1, thread_name_prefix="windows") as thread:
            try:
                ahead = thread.submit(read, first)
                for window in range(first, self.order.n_windows):
                    block = ahead.result()
                    if window + 1 < self.order.n_windows:
                        ahead = thread.submit(read, window + 1)
                    yield window, block
            finally:
                given_up.set()


def _windows_of(features: Inputs, n_batches: int, window_bytes: int, seed: int) -> _Windows | None:
    """How to read features in windows, or None for those that are or fit in memory."""
    if not isinstance(features, FeatureSet) or not features.is_on_disk:
        return None
    row_bytes = features.nbytes // len(features) + _ORDER_BYTES
    if len(features) * row_bytes <= window_bytes:
        return None
    window_rows, batch_rows = window_bytes // (2 * row_bytes), -(-len(features) // n_batches)
    if window_rows < batch_rows:
        raise InputError(
            f"feature set {features.name}: windows of {window_bytes:,} bytes are too small for two batches "
            f"of {batch_rows:,} rows; give at least {2 * row_bytes * batch_rows:,} or take smaller batches"
        )
    return _Windows(features, WindowOrder(len(features), n_batches, window_rows, seed))
