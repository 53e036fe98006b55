"""Tuned models beside each other, prompt by prompt.

One training of each was made, so intervals (paired bootstrap) and p (McNemar's exact test, of shares) are
over prompts: they say nothing of what another seed would give.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from monosem.core.seeding import numpy_stream
from monosem.core.stats import holm
from monosem.experiments.results import PROMPT_COLUMNS

BASE, ALIGNED = "base", "aligned"
"""What is measured without an adapter."""

MATCHED = "lora-at-"
"""How LoRA is called at the scale that gives it as much of something as MonoLoRA has."""

_BOOTSTRAPS = 10_000
_PRIMARY = ("generated_accuracy", "rouge_l")
_SHARED = (("harmful", "refused"), ("harmless", "refused"), ("harmful", "degenerate"))


class Model(NamedTuple):
    """A model of a run: what it is called, the task it was tuned on ("none": it was not), its scale."""

    features: str
    task: str
    scale: float

    @property
    def is_on_the_way(self) -> bool:
        """Whether this is a point of the frontier, between the start and the adapter at its own scale."""
        return self.scale != 1 and not self.features.startswith(MATCHED)

    @property
    def label(self) -> str:
        """Its column in prompts.csv, and what its answers stand under."""
        at = f" at {self.scale:g}" if self.is_on_the_way else ""
        return self.features + (f", {self.task}" if self.task != "none" else "") + at


def models_of(results: pd.DataFrame) -> list[Model]:
    """The models of a tuning run's results, in its order."""
    rows = results[["features", "dataset", "level"]].drop_duplicates().itertuples(index=False)
    return [Model(str(row[0]), str(row[1]), float(row[2])) for row in rows]


def start_of(models: Sequence[Model]) -> Model:
    """What adapters start from: the aligned base where there is one."""
    return [model for model in models if model.features in (BASE, ALIGNED)][-1]


def primary_metric(metrics: Sequence[str]) -> str:
    """Of a task's metrics the one that stands for it."""
    return next(metric for metric in _PRIMARY if metric in metrics)


def compare_prompts(results: pd.DataFrame, prompts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Adapters at their own scale, and LoRA where it matches, against LoRA and against the start.

    results, prompts: the run's tables. seed: of the bootstrap. p_holm corrects p within the run.
    """
    values = {
        (str(condition), str(metric)): rows
        for (condition, metric), rows in prompts.groupby(["condition", "metric"], sort=False)
    }
    encoder = results["encoder"].iloc[0]
    found = []
    for model, baseline in _pairs(models_of(results)):
        for condition, metric in _endpoints(list(values), model.task):
            one, other = values[condition, metric][[model.label, baseline.label]].to_numpy(np.float64).T
            found.append(
                {
                    "dataset": model.task,
                    "encoder": encoder,
                    "features": model.features,
                    "baseline": baseline.features,
                    "condition": condition,
                    "metric": metric,
                    "level": model.scale,
                    **paired_difference(one, other, seed),
                    "unit": "prompt",
                }
            )
    table = pd.DataFrame(found).reindex(columns=list(PROMPT_COLUMNS))
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"])
    return table


def _pairs(models: Sequence[Model]) -> Iterator[tuple[Model, Model]]:
    """Each model with what it is compared with: MonoLoRA with all others of its task, those with LoRA."""
    compared = [model for model in models if model.task != "none" and not model.is_on_the_way]
    for model in compared:
        yield model, start_of(models)
        beside = [other for other in compared if other.task == model.task and other != model]
        yield from (
            (model, other) for other in beside if model.features == "monolora" or other.features == "lora"
        )


def _endpoints(there: Sequence[tuple[str, str]], task: str) -> Iterator[tuple[str, str]]:
    """Per-prompt values that are compared: refusals, what judges flag, and the task's own measure."""
    yield from (key for key in _SHARED if key in there)
    yield from (key for key in there if key[0] == "harmful" and key[1].endswith("/flagged"))
    yield task, primary_metric([metric for condition, metric in there if condition == task])


def paired_difference(
    one: NDArray[np.float64], other: NDArray[np.float64], seed: int
) -> dict[str, float | None]:
    """Mean difference of paired values [N] with a bootstrap interval; McNemar's p where they are 0 or 1.

    Pairs with a missing value (NaN) are left out.
    """
    both = ~(np.isnan(one) | np.isnan(other))
    one, other = one[both], other[both]
    if not len(one):
        return {"n": 0}
    low, high = np.quantile((one - other)[_draws(len(one), seed)].mean(1), [0.025, 0.975])
    shares = bool(np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all())
    return {
        "mean_diff": (one - other).mean(),
        "ci_low": low,
        "ci_high": high,
        "p": mcnemar_p(one, other) if shares else None,
        "n": len(one),
    }


@cache
def _draws(n: int, seed: int) -> NDArray[np.intp]:
    """Bootstrap samples of n prompts, [draws, n]: the same for every comparison of so many."""
    return numpy_stream(seed, "tuning", "bootstrap").integers(n, size=(_BOOTSTRAPS, n))


def mcnemar_p(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """McNemar's exact two-sided p for paired shares, 0 or 1 each [N]; 1 where no pair differs."""
    gained, lost = int((one > other).sum()), int((one < other).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
