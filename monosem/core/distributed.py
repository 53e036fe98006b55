"""One process or several (`torchrun`, `accelerate launch`): who this is, and exchanges that keep gradients.

Without a launcher there is one process and every exchange returns what it was given.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.core.errors import MonosemError

Found = TypeVar("Found")


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """The rows of this process among `n`, contiguous; sizes differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def agreed(self, *answers: bool) -> tuple[bool, ...]:
        """The main process's answers, for all to act alike."""
        if self.size == 1:
            return answers
        said = torch.tensor(answers, dtype=torch.uint8, device=self.device)
        dist.broadcast(said, src=0)
        return tuple(bool(answer) for answer in said.tolist())

    def from_main(self, work: Callable[[], Found]) -> Found:
        """What `work` gives on the main process, on all of them; where it fails there, it fails on all.

        For small things, such as whether a folder may be written to: they are pickled on their way.

        Raises:
            MonosemError: what `work` raised.
        """
        said: list[Any] = [None, None]
        if self.is_main:
            try:
                said[0] = work()
            except MonosemError as error:
                if self.size == 1:
                    raise
                said[1] = error
        if self.size > 1:
            dist.broadcast_object_list(said, src=0, device=self.device)
        if said[1] is not None:
            raise said[1]
        found: Found = said[0]
        return found


@cache
def this_world() -> World:
    """The processes this one was launched with; the first call joins them."""
    on_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState  # picks backend and device; only launched processes pay for it

        # The others wait while the main process alone trains probes, for longer than the usual half hour.
        state = PartialState(cpu=not on_gpu, timeout=timedelta(days=7))
        atexit.register(_leave)
        return World(state.process_index, state.num_processes, state.device)
    return World(0, 1, torch.device("cuda" if on_gpu else "cpu"))


def _leave() -> None:
    """Stop the threads that exchange tensors while Python still runs; found at its end, they may abort it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes exchange tensors now."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of every process, in the order of ranks, and where this one's begin: [n, D] -> [W n, D].

    Every process must give equally many. The gradient of a row is the sum of what all processes' losses say
    of it; with losses that are means over the own rows, averaging parameter gradients over processes (as
    DistributedDataParallel does) then gives the gradient of the mean over the joint batch.
    """
    if world_size() == 1:
        return rows, 0
    everything: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return everything, dist.get_rank() * len(rows)


def summed(tensor: Tensor) -> Tensor:
    """The sum over processes, on each of them; gradients are summed in the same way."""
    if world_size() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def collected(part: Tensor, n: int, world: World) -> Tensor:
    """Rows that were made by parts (`World.part` of `n`), put together on every process: [n, ...]."""
    if world.size == 1:
        return part
    largest = -(-n // world.size)
    padded = torch.cat([part, part.new_zeros(largest - len(part), *part.shape[1:])]).to(world.device)
    parts = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    own = [World(rank, world.size, world.device).part(n) for rank in range(world.size)]
    everything = torch.cat([one[: rows.stop - rows.start] for one, rows in zip(parts, own, strict=True)])
    return everything.to(part.device)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
