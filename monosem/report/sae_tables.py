"""What SAEs side by side have come to, in words and numbers."""

import math
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.core.stats import PairedResult, paired_t
from monosem.experiments.results import read_table
from monosem.report.cells import Cell, Row, Table, Write, estimate, number, words
from monosem.report.table_formats import as_markdown
from monosem.report.wording import MINUS, NO_VALUE, counted
from monosem.sparse.sae_settings import SAESettings

_NEEDED = (
    "sae", "seed", "n_latents", "k", "activation", "fvu", "l0", "dead",
    "accuracy", "features_accuracy",
    "monosemanticity", "untrained_monosemanticity", "untrained_l0", "features_monosemanticity",
    "top_samples", "judged_samples", "read_on",
)  # fmt: skip
_TEXT = ("sae", "activation", "read_on")
_COLUMNS = (
    "latents",
    "k",
    "activation",
    "FVU, %",
    "L0",
    "dead, %",
    "probe, %",
    "monosemantic, %",
    "before, %",
)
_MEANS = ("l0", "dead", "accuracy", "untrained_monosemanticity", "untrained_l0")
_NO_LINES = ("k", "sparsity_coef")
"""Settings along which a line of the frontier leads."""


def read_sweep(run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Manifest and results of a finished run of `monosem sae`.

    Raises:
        InputError: no finished run there, or a damaged table.
    """
    return open_run(run), read_table(run / "results.csv", _NEEDED, text=_TEXT)


def read_training(run: Path) -> pd.DataFrame:
    """A row for each epoch of each SAE: `sae`, `seed`, `epoch`, readings.

    Raises:
        InputError: missing or damaged.
    """
    return read_table(run / "training.csv", ("sae", "seed", "epoch", "loss"), text=("sae",))


def frontier(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each SAE, in order: means over first dictionaries, 95 % t intervals, `family` in words.

    Intervals (`fvu_low`, ...) are NaN where there is one dictionary. A family are SAEs that differ in nothing
    but how many latents are active.
    """
    rows = []
    for name, of_sae in results.groupby("sae", sort=False):
        first = of_sae.iloc[0]
        row = {"sae": name, "family": _family(first)}
        row |= {column: first[column] for column in ("n_latents", "k", "activation")}
        row |= {column: of_sae[column].mean() for column in _MEANS}
        for column in ("fvu", "monosemanticity"):
            size = _size(of_sae[column])
            row |= {column: size.mean, f"{column}_low": size.low, f"{column}_high": size.high}
        rows.append(row)
    return pd.DataFrame(rows)


def features_score(results: pd.DataFrame) -> float:
    """Matched monosemanticity of the features themselves; NaN where it was not read."""
    return float(results["features_monosemanticity"].iloc[0])


def features_accuracy(results: pd.DataFrame) -> float:
    """Accuracy of the probe on the features themselves; NaN where none was read."""
    return float(results["features_accuracy"].iloc[0])


def summary(run: Path) -> str:
    """`summary.md`."""
    manifest, results = read_sweep(run)
    parts = [
        "# Sparse autoencoders side by side",
        f"    {manifest['command']}",
        asked(manifest),
        as_markdown(frontier_table(manifest, results)),
        "\n".join(f"- {note}" for note in notes(results)),
    ]
    return "\n\n".join(parts) + "\n"


def screen(run: Path) -> str:
    """The same for a terminal."""
    manifest, results = read_sweep(run)
    ((_, rows),) = frontier_table(manifest, results, plus_minus=True).groups
    lines = [("SAE", *_COLUMNS), *((row.heading, *map(_text, row.cells)) for row in rows)]
    if results["activation"].nunique() == 1:  # as a terminal is narrow
        place = lines[0].index("activation")
        lines = [(*line[:place], *line[place + 1 :]) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    wrapped = (
        textwrap.wrap(text, 100, break_on_hyphens=False) for text in (asked(manifest), *notes(results))
    )
    return "\n".join(
        [*shown, "", *(line for text in wrapped for line in text), "", f"Report: {run / 'report.html'}"]
    )


def asked(manifest: dict[str, Any]) -> str:
    """What was trained on what, in a sentence."""
    recipe, data = manifest["recipe"], manifest["data"]
    variants, seeds = recipe["variants"], recipe["seeds"]
    kinds = counted(len(variants), "sparse autoencoder")
    trained = f"{kinds}, each from {seeds} first dictionaries," if seeds > 1 else kinds
    on = [f"{of['samples']:,} features of {of['dimensions']:,} dimensions ({of['name']})" for of in data]
    epochs = next(iter(variants.values()))["epochs"]
    read = f"read on {on[1]}, held out" if len(on) > 1 else "read on the same features"
    together = ", all on the same batches" if len(variants) * seeds > 1 else ""
    return f"{trained} trained for {counted(epochs, 'epoch')} on {on[0]}{together}; {read}."


def notes(results: pd.DataFrame) -> Iterator[str]:
    """What the numbers are and are not, in sentences."""
    if results["read_on"].iloc[0] == "training":
        yield "Read on the features that were trained on: on others, SAEs explain less (--held-out)."
    else:
        yield "Read on held-out features."
    yield "FVU: variance unexplained, about the training mean. L0: mean active latents a sample."
    if results["monosemanticity"].notna().any():
        top, judged = (f"{results[name].iloc[0]:,.0f}" for name in ("top_samples", "judged_samples"))
        yield (
            f"Monosemanticity: how far the {top} of {judged} samples that activate a latent most, as many for"
            " every latent, are of one class: 0 by chance, 100 one class only. Where fewer activate it, the"
            " others are drawn by lot, so rare latents, and with them wide SAEs, score lower; latents that"
            " none activates are left out."
        )
        yield (
            "Before: monosemanticity of each SAE as it began, sparse codes of a random dictionary. With topk"
            " the difference is what training brought or took; with other activations L0 changed too."
        )
        own = _percent(1)(features_score(results))
        yield f"The features themselves: {own} % on their own dimensions, by the same number of samples."
    else:
        yield (
            "Without labels of at least two classes, with two samples each on average, there is no"
            " monosemanticity (--labels)."
        )
    if not math.isnan(features_accuracy(results)):
        yield (
            "Probe: accuracy of one linear probe, trained on the features themselves (tuned ridge), on what"
            " each SAE rebuilds of them."
        )
    n = results["seed"].nunique()
    if n > 1:
        yield (
            f"Means over {n} first dictionaries, on the same features and batches, with 95 % t intervals over"
            " these: not over encoders or samples."
        )
    else:
        yield "One first dictionary each: how much another one changes is not known (--seeds 3)."


def frontier_table(manifest: dict[str, Any], results: pd.DataFrame, *, plus_minus: bool = False) -> Table:
    """A row for each SAE, and one for the features themselves; intervals as bounds or as plus-minus."""
    write: Callable[[float, float, float, Write], Cell] = _plus_minus if plus_minus else estimate
    rows: list[Row] = []
    for row in frontier(results).to_dict("records"):
        sizes = {
            column: write(row[column], row[f"{column}_low"], row[f"{column}_high"], _percent(digits))
            for column, digits in (("fvu", 2), ("monosemanticity", 1))
        }
        cells = (
            words(f"{row['n_latents']:,}"),
            words(NO_VALUE if row["activation"] == "relu" else str(row["k"])),
            words(str(row["activation"])),
            sizes["fvu"],
            number(row["l0"], "{:.1f}".format),
            number(row["dead"], _percent(1)),
            number(row["accuracy"], _percent(1)),
            sizes["monosemanticity"],
            number(row["untrained_monosemanticity"], _percent(1)),
        )
        rows.append(Row(str(row["sae"]), cells))
    if not math.isnan(features_score(results)):
        nothing = words(NO_VALUE)
        of_features = (
            number(value, _percent(1)) for value in (features_accuracy(results), features_score(results))
        )
        dim = words(f"{manifest['data'][0]['dimensions']:,}")
        rows.append(Row("features themselves", (dim, *[nothing] * 5, *of_features, nothing)))
    where = "held-out" if results["read_on"].iloc[0] == "held out" else "training"
    return Table(f"Read on {where} features", _COLUMNS, (("", tuple(rows)),), corner="SAE")


def first_place(results: pd.DataFrame) -> str:
    """Where the first SAE lies in the run folder."""
    name, seed = results.iloc[0][["sae", "seed"]]
    return f"saes/{name}" + (f"/seed-{seed}" if results["seed"].nunique() > 1 else "")


def places_table(manifest: dict[str, Any], results: pd.DataFrame) -> Table:
    """Where every SAE lies in the run folder, and its settings as far as they are not the default."""
    usual = SAESettings().model_dump(mode="json")
    rows = []
    for name, settings in manifest["recipe"]["variants"].items():
        seeds = results.loc[results["sae"] == name, "seed"].tolist()
        place = f"saes/{name}" + (f"/seed-{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else "")
        own = ", ".join(f"{key}={value}" for key, value in settings.items() if value != usual.get(key))
        rows.append(Row(place, (words(own or "all by default"),)))
    return Table(
        "Where they lie", ("settings that are not the default",), (("", tuple(rows)),), corner="folder"
    )


def _family(row: "pd.Series[Any]") -> str:
    said = ("n_latents", "activation", *_NO_LINES)
    further = [part for part in str(row["sae"]).split(",") if "=" in part and part.split("=")[0] not in said]
    return ", ".join([f"{row['n_latents']:,} latents", str(row["activation"]), *further])


def _size(values: "pd.Series[float]") -> PairedResult:
    """Mean with its interval, NaN where there is none."""
    nan = math.nan
    if values.isna().any():
        return PairedResult(nan, nan, nan, nan, len(values))
    found = paired_t(values.to_numpy())
    return found if math.isfinite(found.low) else found._replace(low=nan, high=nan)


def _percent(digits: int) -> Write:
    return lambda value: f"{100 * value:.{digits}f}".replace("-", MINUS)


def _plus_minus(mean: float, low: float, high: float, write: Write) -> Cell:
    text = _text(number(mean, write))
    return words(text if math.isnan(low) else f"{text} ± {write((high - low) / 2)}")


def _text(cell: Cell) -> str:
    return "".join(piece.text for piece in cell)
