"""The tidy table every experiment fills and every report reads: its columns, its names, reading and writing.

`accuracy` and every other share is between 0 and 1 here; reports speak of points (hundredths).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.artifacts import write_text_atomic
from monosem.core.errors import InputError

RESULT_COLUMNS = (
    "dataset",
    "encoder",
    "features",
    "protocol",
    "condition",
    "level",
    "encoder_seed",
    "noise_seed",
    "metric",
    "value",
    "n",
)

BASELINE = "simclr"
"""The dense, polysemantic features every other set is compared with."""

METHODS = ("ncl", "sae")
"""The monosemantic feature sets claims are made about; everything else is a control."""

PROTOCOLS = ("published", "tuned", "oracle")
"""The paper's fixed settings; chosen on the noisy labels; chosen on the clean test labels (upper bound)."""


def rows(facts: dict[str, Any], cells: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table of results: `facts` are shared by all rows, `cells` give the rest."""
    return pd.DataFrame([{**facts, **cell} for cell in cells]).reindex(columns=list(RESULT_COLUMNS))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with six significant digits, complete or absent."""
    write_text_atomic(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_results(path: Path) -> pd.DataFrame:
    """Read a `results.csv`.

    Raises:
        InputError: missing, unreadable or with other columns.
    """
    return read_table(path, RESULT_COLUMNS)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file that must have `columns`.

    Raises:
        InputError: missing, unreadable or with other columns.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a finished run has one") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not a readable table ({error})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path}: the columns {', '.join(missing)} are missing")
    return table


def accuracies(results: pd.DataFrame, protocol: str, condition: str, features: str) -> pd.DataFrame:
    """Accuracy of one feature set: one row per (encoder_seed, noise_seed), one column per level, 0 is clean.

    Clean accuracy has one noise draw and is repeated for the others. Empty where nothing was measured.

    Raises:
        InputError: measured, but with holes: pairs would no longer be pairs.
    """
    chosen = results[
        (results["metric"] == "accuracy")
        & (results["protocol"] == protocol)
        & (results["condition"] == condition)
        & (results["features"] == features)
    ]
    if chosen.empty:
        return pd.DataFrame()
    table = chosen.pivot(index=["encoder_seed", "noise_seed"], columns="level", values="value").sort_index()
    if 0.0 in table.columns:
        table[0.0] = table[0.0].groupby("encoder_seed").transform("first")
    if 0.0 not in table.columns or table.isna().to_numpy().any():
        where = f"{features}, {protocol}, {condition}"
        raise InputError(f"results of {where}: some level or noise draw is missing; run the recipe again")
    return table


def endpoints(results: pd.DataFrame) -> "pd.Series[float]":
    """Primary endpoints: mean accuracy over noise levels and draws.

    Indexed by (protocol, condition, features, encoder_seed).
    """
    noisy = results[(results["metric"] == "accuracy") & (results["level"] > 0)]
    return noisy.groupby(["protocol", "condition", "features", "encoder_seed"])["value"].mean()


def conditions(results: pd.DataFrame) -> list[str]:
    """The corruptions measured, in the order they were run."""
    return [str(name) for name in results.loc[results["metric"] == "accuracy", "condition"].unique()]
