"""What SAEs side by side have come to, in words and numbers."""

import math
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.experiments.results import read_table
from monosem.report.table_formats import markdown_table
from monosem.report.wording import NO_VALUE

_NEEDED = ("sae", "n_latents", "k", "activation", "fvu", "l0", "dead", "monosemanticity", "read_on")
_TEXT = ("sae", "activation", "read_on")


def read_sweep(run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Manifest and table of a finished run of `monosem sae`.

    Raises:
        InputError: no finished run there, or a damaged table.
    """
    return open_run(run), read_table(run / "results.csv", _NEEDED, text=_TEXT)


def summary(run: Path) -> str:
    """`summary.md`."""
    manifest, results = read_sweep(run)
    table = markdown_table(_HEADER, _body(results))
    return (
        f"# Sparse autoencoders side by side\n\n{_about(results)}\n\n{table}\n\n"
        f"Made by `{manifest['command']}`; seed {manifest['recipe']['seed']}.\n"
    )


def screen(run: Path) -> str:
    """The same for a terminal."""
    _, results = read_sweep(run)
    lines = [_HEADER, *_body(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(
        [
            *shown,
            "",
            textwrap.fill(_about(results), 100, break_on_hyphens=False),
            f"Written to {run} (figures/frontier.png, saes/)",
        ]
    )


_HEADER = ("SAE", "latents", "k", "activation", "FVU, %", "L0", "dead, %", "monosemanticity, %")


def _body(results: pd.DataFrame) -> list[tuple[str, ...]]:
    rows: Any = results.to_dict("records")
    return [
        (
            str(row["sae"]),
            f"{row['n_latents']:,}",
            NO_VALUE if row["activation"] == "relu" else f"{row['k']}",
            str(row["activation"]),
            f"{100 * row['fvu']:.2f}",
            f"{row['l0']:.1f}",
            f"{100 * row['dead']:.1f}",
            NO_VALUE if math.isnan(row["monosemanticity"]) else f"{100 * row['monosemanticity']:.1f}",
        )
        for row in rows
    ]


def _about(results: pd.DataFrame) -> str:
    where = results["read_on"].iloc[0]
    on = "the features they were trained on" if where == "training" else "held-out features"
    return (
        f"Read on {on}. FVU: variance unexplained. L0: mean active latents a sample. Monosemanticity: how "
        "far the samples that activate a latent most are of one class, as many for every latent; 0 by chance."
    )
