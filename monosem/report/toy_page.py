"""One self-contained HTML page for a run of toy models, from its tables alone."""

from pathlib import Path

from monosem.core.artifacts import write_text_atomic
from monosem.report.figures import save_figures
from monosem.report.page import rendered
from monosem.report.toy_figure import toy_figure
from monosem.report.toy_pictures import toy_pictures
from monosem.report.toy_tables import about, counts_table, kept_table, read_toy, sentences


def write_toy_page(run: Path) -> None:
    """Write `report.html` of a finished run of toy models, and its figures into `figures/`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_toy(run)
    figures = {protocol: toy_figure(comparisons, protocol) for protocol in ("tuned", "published")}
    figures |= toy_pictures(run, manifest["recipe"]["sparsity"])
    drawings = save_figures(figures, run / "figures")
    page = rendered(
        "toy.html.j2",
        manifest,
        drawings,
        about=about(manifest),
        sentences=list(sentences(comparisons)),
        counts=counts_table(comparisons),
        kept=kept_table(results),
    )
    write_text_atomic(run / "report.html", page)
