"""What every report is made from: a finished run's manifest and tables."""

from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.experiments.comparisons import read_comparisons
from monosem.experiments.results import read_results


def read_run(run: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Manifest, results and comparisons of a finished run.

    Raises:
        InputError: no finished run there.
    """
    return open_run(run), read_results(run / "results.csv"), read_comparisons(run / "comparisons.csv")
