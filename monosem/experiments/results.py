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

PROMPT_COLUMNS = (
    "dataset", "encoder", "features", "baseline", "condition", "metric", "level",
    "mean_diff", "ci_low", "ci_high", "p", "p_holm", "unit", "n",
)  # fmt: skip
"""Of a tuned language model's comparisons.csv: models beside each other, prompt by prompt."""

SALIENT_COLUMNS = (
    "dataset", "encoder", "features", "protocol", "condition", "level", "encoder_seed", "noise_seed",
    "shown", "class", "accuracy", "weight", "dimension", "matched", "native", "samples", "sample_classes",
)  # fmt: skip
"""Of a run's salient.csv: the dimensions that are shown, why, and what activates each most (JSON lists)."""

BASELINE = "simclr"
"""The dense, polysemantic features every other set is compared with."""

METHODS = ("ncl", "sae")
"""The monosemantic feature sets claims are made about; everything else is a control."""

PROTOCOLS = ("published", "tuned", "oracle")
"""The paper's fixed settings; chosen on the noisy labels; chosen on the clean test labels (upper bound)."""

FINETUNED = ("finetuned", "from-scratch")
"""Protocols in which the encoder moves: features are the losses it moves by, `ce` and `nce`."""

CE, NCE = "ce", "nce"
"""Cross-entropy, what finetuning is compared with, and its non-negative form, the method."""

LOSS = "loss-"
"""How the protocol of a probe with another loss starts."""

ONE_CORRUPTION = "corruption-"
"""How the condition of one of the common corruptions starts: secondary, and without claims."""

COMMON_CORRUPTIONS = "common-corruptions"
"""The condition that averages them."""

AXIS = "axis-"
"""How the protocol of a probe that can tell a feature set from its rotation starts."""

FEW_SHOT = "few-shot"
"""The condition whose levels are shares of the training set, 1 being all of it."""

MAP = "map-"
"""How the condition of one place on the map of where it pays starts: secondary, and without claims."""

DOSE = "dose-"
"""How a feature set starts that is one of many doses of a method: secondary, and without claims."""


def baseline_of(protocol: str, features: str) -> str | None:
    """What a feature set is compared with under a protocol; None where it is a baseline or beside the point.

    Probes compare with the dense features; those that see axes compare a set with its rotation; finetuning
    with non-negative cross-entropy (and every control) compares with cross-entropy.
    """
    if protocol.startswith(AXIS):
        return f"rotated-{features}" if features in (BASELINE, *METHODS) else None
    baseline = CE if protocol in FINETUNED else BASELINE
    return None if features == baseline else baseline


def methods_of(protocol: str) -> tuple[str, ...]:
    """The feature sets that claims are made about under a protocol."""
    return (NCE,) if protocol in FINETUNED else METHODS


def makes_claims(condition: str) -> bool:
    """Whether a condition has primary endpoints: single corruptions and places on a map have none."""
    return not condition.startswith((ONE_CORRUPTION, MAP))


def protocols(results: pd.DataFrame) -> list[str]:
    """The protocols that measured accuracy: the three verdicts first, then the others as they were run."""
    found = dict.fromkeys(results.loc[results["metric"] == "accuracy", "protocol"])
    return [*(name for name in PROTOCOLS if name in found), *(n for n in found if n not in PROTOCOLS)]


def reference_level(condition: str) -> float:
    """The level that is no corruption: 0, or all of the training set."""
    return 1.0 if condition == FEW_SHOT else 0.0


def rows(facts: dict[str, Any], cells: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table of results: `facts` are shared by all rows, `cells` give the rest."""
    return pd.DataFrame([{**facts, **cell} for cell in cells]).reindex(columns=list(RESULT_COLUMNS))


def said_once(results: pd.DataFrame) -> pd.DataFrame:
    """The results with what is true of the labels alone said once, not for every feature set and protocol."""
    of_labels = results["metric"].isin(["label_signal", "realised_rate"])
    place = ["condition", "level", "encoder_seed", "noise_seed", "metric"]
    repeated = of_labels & results.duplicated(place)
    return results[~repeated].reset_index(drop=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with six significant digits, complete or absent."""
    write_text_atomic(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_results(path: Path) -> pd.DataFrame:
    """Read a `results.csv`.

    Raises:
        InputError: missing, unreadable or with other columns.
    """
    return read_table(path, RESULT_COLUMNS)


def read_table(path: Path, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file that must have `columns`, some of which are `text` whatever stands there.

    Raises:
        InputError: missing, unreadable or with other columns.
    """
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,  # None and NA are names too
            na_values={column: "" for column in columns if column not in text},
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a finished run has one") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not a readable table ({error})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path}: the columns {', '.join(missing)} are missing")
    return table


def accuracies(results: pd.DataFrame, protocol: str, condition: str, features: str) -> pd.DataFrame:
    """Accuracy of one feature set: one row per (encoder_seed, noise_seed), one column per level.

    The reference level, see `reference_level`, has one noise draw, repeated for the others. Empty
    where nothing was measured.

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
    reference = reference_level(condition)
    if reference in table.columns:
        table[reference] = table[reference].groupby("encoder_seed").transform("first")
    if reference not in table.columns or table.isna().to_numpy().any():
        where = f"{features}, {protocol}, {condition}"
        raise InputError(f"results of {where}: some level or noise draw is missing; run the recipe again")
    return table


def endpoints(results: pd.DataFrame) -> "pd.Series[float]":
    """Primary endpoints: mean accuracy over levels and draws, without the reference level.

    Indexed by (protocol, condition, features, encoder_seed).
    """
    few_shot = results["condition"] == FEW_SHOT
    noisy = results[(results["metric"] == "accuracy") & (results["level"] != few_shot.astype(float))]
    return noisy.groupby(["protocol", "condition", "features", "encoder_seed"])["value"].mean()


def conditions(results: pd.DataFrame) -> list[str]:
    """The corruptions measured that claims are made about, in the order they were run."""
    return [name for name in all_conditions(results) if makes_claims(name)]


def all_conditions(results: pd.DataFrame) -> list[str]:
    """Every corruption measured, in the order they were run."""
    return [str(name) for name in results.loc[results["metric"] == "accuracy", "condition"].unique()]
