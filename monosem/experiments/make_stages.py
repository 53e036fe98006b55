"""Make a plan's missing stages one after the other, with progress, and say beforehand what is missing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from monosem.core.errors import Paused
from monosem.core.progress import PAUSED
from monosem.core.run_folder import RunFolder
from monosem.experiments.run import RunWatch
from monosem.experiments.stage_cache import StageCache
from monosem.experiments.works import Work


def make_stages(
    works: Sequence[Work],
    cache: StageCache,
    folder: RunFolder,
    watch: RunWatch,
    after: Callable[[Work], None] = lambda work: None,
) -> None:
    """Make what is not there yet; `after` each stage, made or found, the caller may object by raising.

    Raises:
        Paused: the time is up; the same call goes on where this one stopped.
    """
    watch.keep.append(folder.log)
    missing = [work for work in works if not cache.has(work.stage)]
    watch.plan(sum(work.cost.seconds for work in works), sum(work.cost.seconds for work in missing))
    for number, work in enumerate(works, 1):
        found = cache.has(work.stage)
        if not found:
            watch.begin(f"{number}/{len(works)} {work.stage.name}", 0, work.cost.seconds)
        cache.run(work.stage, work.make, work.cost.seconds)
        if not found:
            folder.log("stage made", stage=work.stage.key, seconds=watch.stage_seconds())
        after(work)
        if not found and watch.should_pause():
            raise Paused(PAUSED)


def planned_lines(works: Sequence[Work], cache: StageCache, on: str, out: Path) -> list[str]:
    """The stages of a run, which of them are there, and how long the others take `on` a machine."""
    missing = [work for work in works if not cache.has(work.stage)]
    lines = [
        f"{f'{work.cost.seconds:.0f} s' if work in missing else 'cached':>8}  {work.stage.key}"
        for work in works
    ]
    minutes = sum(work.cost.seconds for work in missing) / 60
    counted = f"{len(works)} stages, {len(works) - len(missing)} cached"
    return [*lines, f"{counted}; the others take about {minutes:.0f} min on {on}; results go to {out}"]
