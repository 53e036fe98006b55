"""What toy models of superposition showed: maps in words, in counts, and what each kind of model keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.experiments.results import read_results, read_table
from monosem.experiments.toy_maps import APART, INPUT_NOISE, LABEL_NOISE, SUPERPOSED
from monosem.report.cells import Row, Table, number, words
from monosem.report.table_formats import as_markdown
from monosem.report.wording import counted, indented, interval, p_value, points, protocol_title

COMPARED = (
    "dataset", "protocol", "condition", "level", "baseline", "features",
    "mean_diff", "ci_low", "ci_high", "p", "p_holm", "n", "verdict",
)  # fmt: skip
"""Of a toy run's comparisons.csv."""

KINDS = {
    SUPERPOSED: "with superposition",
    "dense-trained": "without (trained at S = 0)",
    "linear": "without (linear)",
    "exact": "without (exact map)",
}
NOISES = {LABEL_NOISE: "label noise", INPUT_NOISE: "input noise"}
_WORDS = ("helps", "hurts", "tie", "undecidable")


def summary(run: Path) -> str:
    """The run's `summary.md`.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_toy(run)
    parts = [
        f"# {manifest['recipe']['title']}",
        f"    {manifest['command']}",
        about(manifest),
        "\n".join(f"- {sentence}" for sentence in sentences(comparisons)),
        as_markdown(counts_table(comparisons)),
        as_markdown(kept_table(results)),
    ]
    return "\n\n".join(parts) + "\n"


def screen(run: Path) -> str:
    """What a run found, for a terminal.

    Raises:
        InputError: no finished run there.
    """
    manifest, _, comparisons = read_toy(run)
    lines = [f"{manifest['recipe']['n_models']} models of each kind and sparsity; without minus with"]
    for sentence in sentences(comparisons):
        lines += ["", *indented(sentence)]
    return "\n".join([*lines, "", f"Report: {run / 'report.html'}"])


def read_toy(run: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Manifest, results and comparisons of a finished run of toy models.

    Raises:
        InputError: no finished run there.
    """
    manifest = open_run(run)
    return manifest, read_results(run / "results.csv"), read_table(run / "comparisons.csv", COMPARED)


def about(manifest: dict[str, Any]) -> str:
    """What was compared, over what, and how a cell is judged."""
    recipe = manifest["recipe"]
    model = recipe["model"]
    return (
        f"{model['n_concepts']} concepts in {model['n_dims']} dimensions; the label is the largest concept,"
        " and any one for a sample without concepts. Differences are accuracy without superposition minus"
        f" accuracy with it, paired over {recipe['n_models']} trainings of each model; intervals are over"
        " these. p is Holm-corrected over the cells of a map; an interval within"
        f" {counted(100 * recipe['margin'], 'point')} of zero is a tie."
    )


def sentences(comparisons: pd.DataFrame) -> Iterator[str]:
    """Each map in a sentence: its cells by verdict, and the largest difference either way."""
    for (condition, protocol, kind), cells in maps(comparisons):
        counts = _counts(cells)
        listed = ", ".join(f"{counts[word]} {word}" for word in _WORDS)
        ranked = cells.sort_values("mean_diff", ascending=False)
        extremes = "; ".join(
            f"{name} {points(row['mean_diff'])} ({interval(row['ci_low'], row['ci_high'])},"
            f" {p_value(row['p_holm'], named=True)}) at {row['dataset']}, noise {row['level']:g}"
            for name, (_, row) in zip(("most", "least"), ranked.iloc[[0, -1]].iterrows(), strict=True)
        )
        yield f"{NOISES[condition]}, {protocol_title(protocol)}, {KINDS[kind]}: {listed}; {extremes}."


def maps(comparisons: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """The cells of every map: a noise, a protocol and a kind without superposition."""
    for condition in NOISES:
        for protocol in ("published", "tuned"):
            for kind in APART:
                cells = comparisons[
                    (comparisons["condition"] == condition)
                    & (comparisons["protocol"] == protocol)
                    & (comparisons["features"] == kind)
                ]
                if len(cells):
                    yield (condition, protocol, kind), cells


def counts_table(comparisons: pd.DataFrame) -> Table:
    """How many cells of each map have which verdict, without noise and with it."""
    rows = []
    for (condition, protocol, kind), cells in maps(comparisons):
        clean, noisy = _counts(cells[cells["level"] == 0]), _counts(cells[cells["level"] > 0])
        heading = f"{NOISES[condition]}, {protocol_title(protocol)}, {KINDS[kind]}"
        rows.append(Row(heading, tuple(words(str(of[word])) for of in (clean, noisy) for word in _WORDS)))
    spans = (("without noise", len(_WORDS)), ("with noise", len(_WORDS)))
    return Table("Cells by verdict", _WORDS * 2, (("", tuple(rows)),), spans=spans, corner="map")


def kept_table(results: pd.DataFrame) -> Table:
    """Concepts kept (norm above 1/2), their interference and dimensionality, means over models."""
    columns = ("concepts_kept", "interference", "dimensionality")
    means = results.groupby(["dataset", "features", "metric"], sort=False)["value"].mean()
    groups = []
    for share in dict.fromkeys(results["dataset"]):
        rows = tuple(
            Row(
                name,
                tuple(
                    number(float(means.get((share, kind, column), float("nan"))), "{:.3g}".format)
                    for column in columns
                ),
            )
            for kind, name in KINDS.items()
        )
        groups.append((str(share), rows))
    titles = tuple(column.replace("_", " ") for column in columns)
    return Table("What models keep, by sparsity S", titles, tuple(groups), corner="model")


def _counts(cells: pd.DataFrame) -> dict[str, int]:
    return {word: int(cells["verdict"].str.startswith(word).sum()) for word in _WORDS}
