"""Run a stage once and find it again: its output lies under the hash of its settings and inputs.

Two recipes that train the same encoder share it, an interrupted run goes on where it was, and a stage whose
files were damaged is recognised by their checksums and made again.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from monosem.core.artifacts import (
    atomic_folder,
    fingerprint_json,
    read_json,
    verify_folder,
    write_json_atomic,
    write_text_atomic,
)
from monosem.core.drafts import sweep_drafts
from monosem.core.errors import InputError, MonosemError

_HASH_DIGITS = 16


@dataclass(frozen=True)
class Stage:
    """One step of a run: what it is called, what determines its output, and what it reads.

    `version` is raised when the code of the stage changes its output, so that old outputs are not found.
    """

    name: str
    settings: Any
    inputs: Sequence["Stage"] = ()
    version: int = 1

    @cached_property
    def key(self) -> str:
        """Name and hash: the folder of the output."""
        facts = {
            "settings": self.settings,
            "inputs": [stage.key for stage in self.inputs],
            "version": self.version,
        }
        return f"{self.name}-{fingerprint_json(facts)[:_HASH_DIGITS]}"


@dataclass
class StageCache:
    """Outputs of stages under `root`; `wall_seconds` collects what each stage of this run took to make."""

    root: Path
    notice: Callable[[str], None] = lambda message: None
    wall_seconds: dict[str, float] = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set)

    def folder(self, stage: Stage) -> Path:
        """Where the output of `stage` lies or will lie."""
        return self.root / stage.key

    def scratch(self, stage: Stage) -> Path:
        """Where `stage` keeps what must outlive an interruption."""
        return self.root / "unfinished" / stage.key

    def has(self, stage: Stage) -> bool:
        """Whether a complete, undamaged output is there."""
        if stage.key in self._verified:
            return True
        if not self.folder(stage).is_dir():
            return False
        try:
            verify_folder(self.folder(stage))
        except InputError as error:
            self.notice(f"{error}: making it again")
            return False
        self._verified.add(stage.key)
        return True

    def pace(self, name: str) -> float:
        """Seconds that stages of this name took over the seconds expected of them; 1 if none is there."""
        took = expected = 0.0
        for file in self.root.glob(f"{name}-{'[0-9a-f]' * _HASH_DIGITS}/stage.json"):
            with suppress(InputError):  # a damaged stage says nothing here; `has` sees to it
                facts = read_json(file)
                if facts.get("expected_seconds"):
                    took, expected = took + facts["wall_seconds"], expected + facts["expected_seconds"]
        return took / expected if expected else 1.0

    def run(self, stage: Stage, make: Callable[[Path, Path], None], expected_seconds: float = 0.0) -> Path:
        """The folder with the output of `stage`, made by `make(output, scratch)` if it is not there yet.

        `output` is an empty folder that becomes the stage's; `scratch` outlives an interruption.
        """
        scratch = self.scratch(stage)
        seconds_before = scratch.with_suffix(".seconds")
        if not self.has(stage):
            sweep_drafts(self.root)
            with (
                _stopwatch(seconds_before) as elapsed,
                atomic_folder(self.folder(stage), guarded=False) as draft,
            ):
                make(draft, scratch)
                seconds = round(elapsed(), 3)
                write_json_atomic(
                    draft / "stage.json",
                    {
                        "stage": stage.key,
                        "settings": stage.settings,
                        "inputs": [i.key for i in stage.inputs],
                        "wall_seconds": seconds,
                        "expected_seconds": expected_seconds,
                    },
                )
            self._verified.add(stage.key)
        # Also where a kill came right after the output was complete.
        shutil.rmtree(scratch, ignore_errors=True)
        seconds_before.unlink(missing_ok=True)
        self.wall_seconds[stage.key] = read_json(self.folder(stage) / "stage.json")["wall_seconds"]
        return self.folder(stage)


@contextmanager
def _stopwatch(file: Path) -> Iterator[Callable[[], float]]:
    """Seconds spent in this block and in its earlier, interrupted attempts; `file` keeps them between."""
    earlier = 0.0
    with suppress(OSError, ValueError):  # absent, or cut off in the middle by a kill
        earlier = float(file.read_text())
    started = time.monotonic()

    def elapsed() -> float:
        return earlier + time.monotonic() - started

    try:
        yield elapsed
    except BaseException:
        with suppress(OSError, MonosemError):  # what interrupted us matters more than the time it took
            write_text_atomic(file, str(elapsed()))
        raise
