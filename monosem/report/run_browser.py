"""The feature browser of a finished run."""

from collections.abc import Sequence
from pathlib import Path

from monosem.core.progress import SILENT, Watch
from monosem.experiments.browsing import run_cards
from monosem.experiments.results import BASELINE, METHODS
from monosem.report.browser import Samples, check_replaceable, write_browser


def browse_run(
    run: Path,
    out: Path,
    store: Path,
    *,
    sets: Sequence[str] | None = None,
    level: float | None = None,
    pair: int = 0,
    limit: int = 5000,
    choose: str = "matched",
    watch: Watch = SILENT,
) -> str:
    """Write the browser of a finished run into the folder `out`; what to tell who asked for it.

    The arguments are those of `run_cards`; sets None: the dense features and the methods.

    Raises:
        InputError: as `run_cards`, or `out` is something else.
    """
    check_replaceable(out)  # before anything is computed
    found = run_cards(
        run,
        store,
        sets=sets or (BASELINE, *METHODS),
        level=level,
        pair=pair,
        limit=limit,
        choose=choose,
        watch=watch,
    )
    samples = Samples(found.labels, found.class_names, pictures=found.pictures)
    written = write_browser(out, found.title, found.sets, samples, notes=found.notes)
    told = list(found.notes)
    if written.n_missing:
        told.append(f"{written.n_missing:,} of {written.n_shown:,} pictures are missing")
    return "\n".join([*told, f"Open {written.page} in a browser"])
