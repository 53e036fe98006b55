"""One self-contained HTML page per run, from its manifest and tables alone."""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monosem.core.artifacts import write_text_atomic
from monosem.experiments.attribution import attribute, ladder, sentence
from monosem.experiments.results import BASELINE, METHODS, conditions
from monosem.report import findings, page_tables
from monosem.report.cells import Table
from monosem.report.claims import Claim, claims
from monosem.report.condition_words import condition_name, titled
from monosem.report.curve_figures import curve_conditions
from monosem.report.figure_style import COLOURS, embeddable
from monosem.report.figures import all_figures, save_figures
from monosem.report.pretraining_figure import encoder_epochs, pretraining_figure
from monosem.report.run_tables import ordinary, read_run
from monosem.report.salient_pictures import salient_pictures
from monosem.report.section import Section
from monosem.report.sections import sections
from monosem.report.table1 import Table1, notes, side_by_side_table, table1
from monosem.report.table1_figure import table1_figure
from monosem.report.wording import METHOD_MEANINGS, MINUS, counted, feature_name, points


class Curves(NamedTuple):
    """The figures of one condition: their stem, and what they show in words."""

    condition: str
    title: str
    accuracy: str
    difference: str


class Ladder(NamedTuple):
    """What one method's difference under one condition is made of: in words, as a figure, in numbers."""

    title: str
    sentence: str
    figure: str
    table: Table


def write_page(run_folder: Path) -> None:
    """Write `report.html` of a finished run, and the figures it shows into `figures/`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_run(run_folder)
    asked = [*sections(results, comparisons), *salient_pictures(run_folder)]
    figures = all_figures(results, comparisons, asked)
    beside = table1(manifest, results)
    if beside is not None:
        figures["table1"] = table1_figure(beside)
    epochs = encoder_epochs(run_folder)
    if not epochs.empty:
        figures["pretraining"] = pretraining_figure(epochs)
    drawings = save_figures(figures, run_folder / "figures")
    page = render_page(manifest, results, comparisons, asked, drawings, epochs, beside)
    write_text_atomic(run_folder / "report.html", page)


def rendered(template: str, manifest: Mapping[str, Any], drawings: Mapping[str, str], /, **parts: Any) -> str:
    """A page from its template: with the run's manifest and recipe, its drawings (SVG by name), and parts."""
    return (
        page_templates()
        .get_template(template)
        .render(
            manifest=manifest,
            recipe_yaml=yaml.safe_dump(
                manifest["recipe"], sort_keys=False, default_flow_style=None, width=100
            ),
            # Our own drawings are the one kind of markup that is not escaped.
            figures={name: Markup(embeddable(drawing, name)) for name, drawing in drawings.items()},
            colours=COLOURS,
            feature_name=feature_name,
            **parts,
        )
    )


def page_templates() -> Environment:
    """The templates of pages: everything put into them is escaped, and nothing may be missing."""
    return Environment(
        loader=PackageLoader("monosem.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(
    manifest: dict[str, Any],
    results: pd.DataFrame,
    comparisons: pd.DataFrame,
    asked: Sequence[Section],
    drawings: Mapping[str, str],
    epochs: pd.DataFrame,
    beside: Table1 | None,
) -> str:
    """The page of one run as HTML that refers to nothing outside itself and runs no script.

    `asked` are its sections, `drawings` the SVG documents that `save_figures` returns, `epochs` the readings
    of `encoder_epochs`, `beside` what stands beside the paper's Table 1.
    """
    made, plain = claims(results, comparisons), ordinary(results)
    return rendered(
        "report.html.j2",
        manifest,
        drawings,
        margin=points(manifest["recipe"]["margin"]).removeprefix("+"),
        facts=findings.facts(manifest, comparisons),
        questions=findings.questions(results),
        findings=findings.findings(made),
        headings={condition: titled(results, condition) for condition in conditions(results)},
        sections=asked,
        told={
            section.anchor: [findings.told(claim) for claim in made if section.tells(claim.protocol)]
            for section in asked
        },
        headlines=dict(_headlines(asked, made)),
        unit=findings.unit(comparisons),
        limits=list(findings.limits(results, comparisons)),
        method_meanings=METHOD_MEANINGS,
        compared=(BASELINE, *METHODS),
        curves=list(_curves(plain, comparisons)),
        ladders=list(_ladders(plain, drawings)),
        table1=None if beside is None else side_by_side_table(beside),
        table1_notes=() if beside is None else notes(beside),
        pretraining=findings.pretraining_in_words(epochs),
        verdicts=page_tables.verdict_table(made),
        monosemanticity=page_tables.monosemanticity_table(plain),
        memorised=page_tables.memorised_tables(plain),
        geometry=page_tables.geometry_table(plain),
        edges=page_tables.edge_table(plain),
    )


def _headlines(asked: Sequence[Section], made: Sequence[Claim]) -> Iterator[tuple[str, str]]:
    """Anchor and outcome of every section whose outcome is not on the verdicts' cards."""
    for section in asked:
        about = [claim.word.split()[0] for claim in made if section.tells(claim.protocol)]
        if about:
            counts = ", ".join(f"{about.count(word)} {word}" for word in dict.fromkeys(sorted(about)))
            yield section.anchor, f"{counted(len(about), 'verdict')}: {counts}."
        elif section.beyond_claims:
            yield section.anchor, " ".join(section.found)


def _curves(results: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[Curves]:
    for condition in curve_conditions(results):
        yield Curves(
            condition,
            condition_name(condition),
            findings.accuracy_in_words(results, condition),
            findings.difference_in_words(comparisons, condition),
        )


def _ladders(results: pd.DataFrame, drawn: Container[str]) -> Iterator[Ladder]:
    for condition in conditions(results):
        for method in METHODS:
            name = f"attribution-{method}-{condition}"
            if name not in drawn:
                continue
            attribution = attribute(results, method, condition)
            table = page_tables.attribution_table(ladder(results, method, condition), attribution)
            said = (
                "Not every rung was measured, so the difference cannot be split into parts."
                if attribution is None
                else f"{sentence(attribution)}.".capitalize().replace("-", MINUS)
            )
            title = f"{feature_name(method)}, {condition_name(condition)}"
            yield Ladder(title, said, name, table)
