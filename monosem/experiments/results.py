"""The tidy table every experiment fills and every report reads: its columns, its names, reading and writing.

`accuracy` and every other share is between 0 and 1 here; reports speak of points (hundredths).
"""

from collections.abc import Iterable
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
    try:
        table = pd.read_csv(path, dtype={"features": str, "protocol": str, "condition": str})
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a finished run has one") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table of results ({error})") from None
    missing = [column for column in RESULT_COLUMNS if column not in table.columns]
    if missing:
        raise InputError(f"{path}: the columns {', '.join(missing)} are missing")
    return table


def accuracies(results: pd.DataFrame, protocol: str, condition: str, features: str) -> pd.DataFrame:
    """Accuracy of one feature set: one row per (encoder_seed, noise_seed), one column per level, 0 is clean.

    Clean accuracy has one noise draw and is repeated for the others. Empty where nothing was measured.
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
    table[0.0] = table[0.0].groupby("encoder_seed").transform("first")
    return table.dropna()


def endpoints(results: pd.DataFrame) -> "pd.Series[float]":
    """Primary endpoints: mean accuracy over noise levels and draws.

    Indexed by (protocol, condition, features, encoder_seed).
    """
    noisy = results[(results["metric"] == "accuracy") & (results["level"] > 0)]
    return noisy.groupby(["protocol", "condition", "features", "encoder_seed"])["value"].mean()


def conditions(results: pd.DataFrame) -> list[str]:
    """The corruptions measured, in the order they were run."""
    return [str(name) for name in results.loc[results["metric"] == "accuracy", "condition"].unique()]
