"""Processes that fill batches of pixels: what they read is the same however many there are."""

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from monosem.core.devices import device_errors_explained
from monosem.core.errors import InputError

_MOST_WORKERS = 16
_AHEAD = 2  # batches each process prepares in advance; they lie in shared memory

Shape = Callable[[int], tuple[int, ...]]
"""Of the pixels of a batch, given how many rows it has."""


def usual_workers() -> int:
    """One decoding process for each CPU this process may use, shared with its siblings under a launcher."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def read_batches(
    fill: Callable[[list[int], Tensor], None],
    batches: Iterable[Tensor],
    shape: Shape,
    *,
    workers: int,
    reuse: bool = False,
    pin: bool = False,
) -> Iterator[Tensor]:
    """What `fill(rows, out)` makes of every batch of rows, in order: uint8 of `shape`.

    Args:
        fill: writes the pixels of these rows into uint8 `out`; it must be picklable.
        batches: rows of each batch (int64 [B]).
        shape: that of `out`.
        workers: how many processes do it, 0 for this one.
        reuse: whether a batch may be overwritten once the next is asked for. Memory that was used before
            costs nothing, while the system takes long to give new pages.
        pin: whether to copy batches to pinned memory, from where a GPU reads without waiting.

    Raises:
        InputError: as `fill` raises it.
        MonosemError: a process died.
    """
    loader = DataLoader(
        _Batches(fill, shape, reuse),
        batch_size=None,
        sampler=(rows.tolist() for rows in batches),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_leave_interrupts_to_parent if workers else None,
        generator=torch.Generator(),  # else the global one would be drawn from
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; these children decode and touch nothing of the threads'.
        warnings.simplefilter("ignore", DeprecationWarning)
        items = iter(loader)
    try:
        while True:
            with device_errors_explained("reading images", "set data.workers lower"):
                item = next(items, None)
            if item is None:
                return
            if isinstance(item, _Refusal):
                raise InputError(item.message)
            yield item
    finally:
        del items  # ends the processes now; a traceback might keep this frame, and them, for long


@dataclass(frozen=True)
class _Refusal:
    """An InputError on its way out of a decoding process: torch would bury its message in a traceback."""

    message: str


class _Batches(Dataset[Tensor | _Refusal]):
    """Its items are whole batches, named by their rows."""

    def __init__(self, fill: Callable[[list[int], Tensor], None], shape: Shape, reuse: bool) -> None:
        self._fill, self._shape, self._reuse = fill, shape, reuse
        self._buffers: dict[int, Tensor] = {}
        self._turn = 0

    def __getitem__(self, rows: list[int]) -> Tensor | _Refusal:
        out = self._empty(*self._shape(len(rows)))
        try:
            self._fill(rows, out)
        except InputError as error:
            return _Refusal(str(error))
        return out

    def _empty(self, *shape: int) -> Tensor:
        """Uninitialised; in a decoding process in shared memory, so that handing it over copies nothing."""
        n = math.prod(shape)
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        if not self._reuse:
            return _shared(n).view(shape)
        # When a process begins an item, the one it made _AHEAD before may be in use, earlier ones are not.
        self._turn = (self._turn + 1) % (_AHEAD + 1)
        buffer = self._buffers.get(self._turn)
        if buffer is None or len(buffer) < n:
            buffer = self._buffers[self._turn] = _shared(n)
        return buffer[:n].view(shape)


def _shared(n: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(n)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _leave_interrupts_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
