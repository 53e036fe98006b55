"""Progress on the terminal: one bar with an ETA, or a plain line now and then where there is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from monosem.experiments.run import Reading

_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress_display() -> Iterator[Callable[[Reading], None]]:
    """A function that shows a reading on stderr, for as long as the block lasts."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    columns = (BarColumn(24), TextColumn("{task.percentage:3.0f}%"), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def show(reading: Reading) -> None:
            progress.update(task, completed=reading.fraction, description=_describe(reading))

        yield show


def _plain_lines() -> Callable[[Reading], None]:
    last_shown = -_SECONDS_BETWEEN_LINES

    def show(reading: Reading) -> None:
        nonlocal last_shown
        now = time.monotonic()
        if reading.notice or now - last_shown >= _SECONDS_BETWEEN_LINES:
            last_shown = now
            print(f"{100 * reading.fraction:3.0f}% {_describe(reading)}", file=sys.stderr, flush=True)

    return show


def _describe(reading: Reading) -> str:
    if reading.notice:
        return reading.notice
    parts = [reading.stage]
    if reading.eta_seconds is not None:
        parts.append(f"{_duration(reading.eta_seconds)} left")
    parts += [f"{name} {value:.3g}" for name, value in reading.values.items()]
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
