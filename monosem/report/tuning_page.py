"""One self-contained HTML page for a run that tuned a language model, from its tables and answers alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from monosem.core.artifacts import read_json, write_text_atomic
from monosem.report.cells import Table
from monosem.report.figures import save_figures
from monosem.report.frontier_figure import frontier_figure, frontier_tasks
from monosem.report.page import rendered
from monosem.report.table2 import table2
from monosem.report.tuning_tables import (
    asked,
    comparison_table,
    read_tuning,
    sentences,
    tasks_of,
    tuning_table,
)


class TunedOn(NamedTuple):
    """A task with its models beside each other, in words and in numbers."""

    name: str
    sentences: list[str]
    models: Table
    differences: Table


def write_tuning_page(run: Path) -> None:
    """Write `report.html` of a finished tuning run, and its figure into `figures/`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_tuning(run)
    figures = {"frontier": frontier_figure(results)} if frontier_tasks(results) else {}
    drawings = save_figures(figures, run / "figures")
    page = rendered(
        "tuning.html.j2",
        manifest,
        drawings,
        asked=asked(results),
        tasks=[
            TunedOn(
                task,
                list(sentences(comparisons, task)),
                tuning_table(results, task),
                comparison_table(comparisons, task),
            )
            for task in tasks_of(results)
        ],
        papers=table2(results) if manifest["recipe"]["paper"] == "table2" else None,
        examples=list(_examples(read_json(run / "answers.json"))),
        template=(run / "templates.txt").read_text(encoding="utf-8"),
    )
    write_text_atomic(run / "report.html", page)


def _examples(examples: dict[str, Any]) -> Iterator[tuple[str, list[str], list[tuple[str, tuple[str, ...]]]]]:
    """For each kind of prompt the models, and every prompt with their answers."""
    for kind, of_kind in examples.items():
        rows = zip(of_kind["prompts"], zip(*of_kind["answers"].values(), strict=True), strict=True)
        if of_kind["prompts"]:
            yield kind, list(of_kind["answers"]), list(rows)
