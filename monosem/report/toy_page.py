"""One self-contained HTML page for a run of toy models, from its tables alone."""

from pathlib import Path

import yaml
from markupsafe import Markup

from monosem.core.artifacts import write_text_atomic
from monosem.report.figure_style import COLOURS, embeddable
from monosem.report.figures import save_figures
from monosem.report.page import page_templates
from monosem.report.toy_figure import toy_figure
from monosem.report.toy_tables import about, counts_table, kept_table, read_toy, sentences
from monosem.report.wording import feature_name


def write_toy_page(run: Path) -> None:
    """Write `report.html` of a finished run of toy models, and its figures into `figures/`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_toy(run)
    figures = {protocol: toy_figure(comparisons, protocol) for protocol in ("tuned", "published")}
    drawings = save_figures(figures, run / "figures")
    recipe_yaml = yaml.safe_dump(manifest["recipe"], sort_keys=False, default_flow_style=None, width=100)
    page = (
        page_templates()
        .get_template("toy.html.j2")
        .render(
            manifest=manifest,
            about=about(manifest),
            sentences=list(sentences(comparisons)),
            counts=counts_table(comparisons),
            kept=kept_table(results),
            recipe_yaml=recipe_yaml,
            # Our own drawings are the one kind of markup that is not escaped.
            figures={name: Markup(embeddable(drawing, name)) for name, drawing in drawings.items()},
            colours=COLOURS,
            feature_name=feature_name,
        )
    )
    write_text_atomic(run / "report.html", page)
