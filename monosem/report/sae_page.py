"""One self-contained HTML page for SAEs side by side, from the run's tables alone."""

from pathlib import Path

from monosem.core.artifacts import write_text_atomic
from monosem.report.figures import save_figures
from monosem.report.page import rendered
from monosem.report.sae_figure import sae_frontier
from monosem.report.sae_tables import (
    asked,
    first_place,
    frontier_table,
    notes,
    places_table,
    read_sweep,
    read_training,
)
from monosem.report.sae_training_figure import has_curves, reading_shown, sae_training_figure


def write_sae_page(run: Path) -> None:
    """Write `report.html` of a finished run of `monosem sae`, and its figures into `figures/`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results = read_sweep(run)
    training = read_training(run)
    figures = {"frontier": sae_frontier(results)}
    if has_curves(training):
        figures["training"] = sae_training_figure(results, training)
    drawings = save_figures(figures, run / "figures")
    page = rendered(
        "sae.html.j2",
        manifest,
        drawings,
        asked=asked(manifest),
        frontier=frontier_table(manifest, results),
        notes=list(notes(results)),
        n_seeds=results["seed"].nunique(),
        reading=reading_shown(training)[0],
        places=places_table(manifest, results),
        first=first_place(results),
    )
    write_text_atomic(run / "report.html", page)
