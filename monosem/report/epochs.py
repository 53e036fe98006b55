"""The readings of training, epoch by epoch, from a run's `log.jsonl`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

_KEY = ["of", "pair", "epoch"]


def read_epochs(run: Path) -> pd.DataFrame:
    """One row for each epoch of each training: `of` ("simclr", "ncl" or "sae"), `pair`, `epoch`, readings.

    An epoch that was trained again after an interruption counts once, as it was last. Lines torn by a
    crash are passed over. Empty where the run found its encoders made.
    """
    table = pd.DataFrame(_epochs(run / "log.jsonl"))
    if table.empty:
        return pd.DataFrame(columns=_KEY)
    return table.drop_duplicates(_KEY, keep="last").sort_values(_KEY, ignore_index=True)


def _epochs(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or entry.get("event") != "epoch":
            continue
        if isinstance(entry.get("of"), str) and _is_number(entry.get("epoch")):
            readings = {key: float(value) for key, value in entry.items() if _is_number(value)}
            yield {**readings, "of": entry["of"], "pair": entry.get("pair", 0), "epoch": entry["epoch"]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
