"""Floor 8: what people look at. Everything here reads a run folder's tables and adds no result to them."""

from pathlib import Path


def write_reports(run: Path) -> None:
    """Write `summary.md`, `report.html` and `figures/` of a finished run, from its manifest, tables and log.

    A run that stands beside the paper's Table 1 has `table1.csv` and `table1.tex` too. With the reports the
    run is complete, and its manifest says so.

    Raises:
        InputError: no finished run there.
    """
    # Plotting takes a second to import; what only prints a verdict does without it.
    from monosem.core.artifacts import write_text_atomic
    from monosem.core.run_folder import mark_complete

    write_text_atomic(run / "summary.md", summary(run))
    kind = kind_of(run)
    if kind == "tuning":
        from monosem.report.tuning_page import write_tuning_page

        write_tuning_page(run)
    elif kind == "toy":
        from monosem.report.toy_page import write_toy_page

        write_toy_page(run)
    elif kind == "sae":
        from monosem.report.sae_page import write_sae_page

        write_sae_page(run)
    else:
        from monosem.report.page import write_page
        from monosem.report.table1 import write_table1

        write_table1(run)
        write_page(run)
    mark_complete(run)


def summary(run: Path) -> str:
    """A finished run's `summary.md`.

    Raises:
        InputError: no finished run there.
    """
    from monosem.report import sae_tables, tables, toy_tables, tuning_tables

    writers = {"tuning": tuning_tables.summary, "toy": toy_tables.summary, "sae": sae_tables.summary}
    return writers.get(kind_of(run), tables.summary)(run)


def screen(run: Path) -> str:
    """What a finished run found, for a terminal.

    Raises:
        InputError: no finished run there.
    """
    from monosem.report import sae_tables, tables, toy_tables, tuning_tables

    writers = {"tuning": tuning_tables.screen, "toy": toy_tables.screen, "sae": sae_tables.screen}
    return writers.get(kind_of(run), tables.verdict_screen)(run)


def kind_of(run: Path) -> str:
    """What a run is about: "tuning" language models, "toy" models, "sae" side by side, or "probes".

    Raises:
        InputError: no finished run there.
    """
    from monosem.core.run_folder import open_run

    return str(open_run(run).get("recipe", {}).get("kind", "probes"))
