"""The state of a long loop on disk, so that a run killed at any moment goes on from there with the same bits.

A checkpoint is a sealed folder named by its number; the newest two are kept. The newer is complete before the
older goes, and one that was damaged since is recognised by its checksums and passed over.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monosem.core.artifacts import (
    atomic_folder,
    fingerprint_json,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
)
from monosem.core.distributed import World
from monosem.core.drafts import sweep_drafts
from monosem.core.errors import InputError, Paused
from monosem.core.progress import PAUSED, Watch

SECONDS_BETWEEN = 30.0
"""Checkpoints are due at least this far apart,"""

SAVES_BETWEEN = 50.0
"""and this many times what the last one took to write, so that at most 2 % of the time goes into them."""

_FORMAT = "monosem-checkpoint-1"
_KEPT = 2


class State(NamedTuple):
    """Where a loop stands: named tensors, and facts that JSON holds (floats come back with the same bits)."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one loop, under `folder`; with None nothing is written, found or ever due.

    Args:
        folder: for these checkpoints alone; whoever knows that the loop's result is safe removes it.
        identity: what determines the loop's result, as JSON: a checkpoint of another is refused.
        notice: told when a checkpoint is damaged and what is done instead.
    """

    def __init__(
        self, folder: Path | None, identity: Any, notice: Callable[[str], None] = lambda message: None
    ) -> None:
        self._folder = folder
        self._identity = fingerprint_json(identity)
        self._notice = notice
        self._damaged: set[Path] = set()
        self._saved_at = time.monotonic()
        self._took = 0.0

    def load(self) -> State | None:
        """The state of the newest intact checkpoint, on the CPU; None if there is none.

        Raises:
            InputError: the checkpoint is of another format or identity.
        """
        if self._folder is not None:
            sweep_drafts(self._folder)
        found = None
        damaged: list[Path] = []
        for path in reversed(self._numbered()):
            try:
                found = self._read(path)
                break
            except _DamagedError:
                damaged.append(path)
        instead = "going on from the one before it" if found else "as are all before it, starting anew"
        for path in damaged:
            self._notice(f"{path}: damaged, {instead}")
        self._damaged.update(damaged)
        return found

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write a checkpoint, and then remove all but the newest two.

        Raises:
            MonosemError: the disk is full or cannot be written; the earlier checkpoints are untouched.
        """
        if self._folder is None:
            return
        started = time.monotonic()
        earlier = self._numbered()
        number = int(earlier[-1].name) + 1 if earlier else 1
        with atomic_folder(self._folder / f"{number:08d}") as draft:
            save_tensors(draft / "state.safetensors", tensors)
            write_json_atomic(
                draft / "state.json", {"format": _FORMAT, "identity": self._identity, "facts": facts}
            )
        intact = [path for path in self._numbered() if path not in self._damaged]
        for path in [*self._damaged, *intact[:-_KEPT]]:
            shutil.rmtree(path, ignore_errors=True)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - started

    def due(self) -> bool:
        """Whether the last checkpoint, or the start, is long enough ago."""
        apart = max(SECONDS_BETWEEN, SAVES_BETWEEN * self._took)
        return self._folder is not None and time.monotonic() - self._saved_at > apart

    def at_safe_point(self, watch: Watch, state: Callable[[], State], world: World | None = None) -> None:
        """Called after each step: saves `state()` when due, or when `watch` wants to pause; then pauses.

        The processes of `world`, if there are several, all call it and make their `state()`; the main one
        decides and writes.

        Raises:
            MonosemError: the state could not be written.
            Paused: the time is up and the state is saved.
        """
        if self._folder is None:
            return
        asked = watch.should_pause(), self.due()
        pausing, due = asked if world is None else world.agreed(*asked)
        if pausing or due:
            now = state()
            if world is None or world.is_main:
                self.save(*now)
            if world is not None:
                world.wait()
        if pausing:
            raise Paused(PAUSED)

    def _numbered(self) -> list[Path]:
        """The folders of checkpoints, oldest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(
            (path for path in self._folder.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name)
        )

    def _read(self, path: Path) -> State:
        try:
            verify_folder(path)
            record = read_json(path / "state.json")
            written_as = record["format"]
        except (OSError, InputError, TypeError, KeyError) as error:
            raise _DamagedError(path) from error
        if written_as != _FORMAT:
            raise InputError(f"{path}: format {written_as!r} is not {_FORMAT}, the one read here; delete it")
        if record["identity"] != self._identity:
            raise InputError(f"{self._folder}: a checkpoint of other settings, seed or data; delete it")
        return State(load_tensors(path / "state.safetensors"), record["facts"])


class _DamagedError(Exception):
    """A checkpoint that is not as it was written."""


def under(owner: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `owner.` before each name, so that several owners fit into one state."""
    return {f"{owner}.{name}": tensor for name, tensor in tensors.items()}


def part_of(owner: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `under` named for `owner`, by their own names."""
    start = f"{owner}."
    return {name.removeprefix(start): tensors[name] for name in tensors if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter (moments, step counts), by "number.name"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number in state for name, tensor in state[number].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out of an optimiser over the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            # Laid out in memory as the parameter is: fused kernels take nothing else.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
