"""Tuned models beside each other, on tables small enough to count by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from monosem.experiments.results import RESULT_COLUMNS
from monosem.experiments.tuning_comparisons import (
    Model,
    compare_prompts,
    mcnemar_p,
    models_of,
    paired_difference,
    primary_metric,
    start_of,
)

MODELS = [
    Model("base", "none", 1.0),
    Model("aligned", "none", 1.0),
    Model("lora", "dolly", 1.0),
    Model("lora", "dolly", 0.5),
    Model("monolora", "dolly", 1.0),
    Model("lora-half", "dolly", 1.0),
    Model("lora-at-norm", "dolly", 0.7),
    Model("lora", "sst2", 1.0),
]
"""Those of one run, in its order."""


def tables(refused: Mapping[str, Sequence[float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """results and prompts of a run; `refused` by column, the others zero."""
    results = pd.DataFrame(
        [
            {"features": m.features, "dataset": m.task, "level": m.scale, "encoder": "tiny", "metric": name}
            for m in MODELS
            for name in ("refused", "words")
        ]
    ).reindex(columns=list(RESULT_COLUMNS))
    n = len(next(iter(refused.values())))
    draw = np.random.default_rng(0)
    rouge = {m.label: draw.random(n) for m in MODELS if m.task == "dolly"}
    parts = [("harmful", "refused", refused), ("dolly", "rouge_l", rouge), ("dolly", "loss", rouge),
             ("sst2", "generated_accuracy", {"lora, sst2": np.ones(n)})]  # fmt: skip
    blocks = []
    for condition, metric, columns in parts:
        block = pd.DataFrame({m.label: columns.get(m.label, np.zeros(n)) for m in MODELS})
        blocks.append(block.assign(condition=condition, metric=metric, prompt=range(n)))
    return results, pd.concat(blocks)


REFUSED = {
    "aligned": [1, 1, 1, 1, 1, 1, 0, 0],
    "lora, dolly": [0, 0, 0, 0, 0, 1, 0, 0],
    "monolora, dolly": [1, 1, 1, 1, 0, 1, 1, 0],
}


def row(table: pd.DataFrame, features: str, baseline: str, metric: str = "refused") -> pd.Series:
    found = table[
        (table["features"] == features)
        & (table["baseline"] == baseline)
        & (table["metric"] == metric)
        & (table["dataset"] == "dolly")
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_models_are_found_again_in_the_results() -> None:
    results, _ = tables(REFUSED)
    assert models_of(results) == MODELS
    assert start_of(MODELS).features == "aligned"
    assert start_of(MODELS[:1]).features == "base"
    assert [m.label for m in MODELS[:5]] == [
        "base", "aligned", "lora, dolly", "lora, dolly at 0.5", "monolora, dolly",
    ]  # fmt: skip
    assert MODELS[6].label == "lora-at-norm, dolly"
    assert [m.label for m in MODELS if m.is_on_the_way] == ["lora, dolly at 0.5"]


def test_what_is_compared_with_what() -> None:
    table = compare_prompts(*tables(REFUSED), seed=0)
    pairs = set(zip(table["dataset"], table["features"], table["baseline"], strict=True))
    assert pairs == {
        *(("dolly", name, "aligned") for name in ("lora", "monolora", "lora-half", "lora-at-norm")),
        *(("dolly", "monolora", name) for name in ("lora", "lora-half", "lora-at-norm")),
        ("dolly", "lora-half", "lora"),
        ("dolly", "lora-at-norm", "lora"),
        ("sst2", "lora", "aligned"),
    }
    # A task is compared on its own measure, and never on another's; loss is in the tables only.
    assert set(table.loc[table["dataset"] == "dolly", "metric"]) == {"refused", "rouge_l"}
    assert set(table.loc[table["dataset"] == "sst2", "metric"]) == {"refused", "generated_accuracy"}


def test_differences_and_tests_are_those_of_the_prompts() -> None:
    table = compare_prompts(*tables(REFUSED), seed=0)
    found = row(table, "monolora", "lora")
    assert found["mean_diff"] == pytest.approx(5 / 8)
    assert found["ci_low"] <= 5 / 8 <= found["ci_high"]
    assert found["p"] == pytest.approx(2 / 2**5)  # five gained, none lost
    assert found["n"] == 8
    assert pd.isna(row(table, "monolora", "lora", "rouge_l")["p"])
    tested = table[table["p"].notna()]
    assert tested["p_holm"].max() <= 1
    assert (tested["p_holm"] >= tested["p"]).all()
    smallest = tested.loc[tested["p"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(min(1, smallest["p"] * len(tested)))


def test_prompts_without_a_value_are_left_out_of_both() -> None:
    missing = {**REFUSED, "monolora, dolly": [np.nan, np.nan, 1, 1, 0, 1, 1, 0]}
    found = row(compare_prompts(*tables(missing), seed=0), "monolora", "lora")
    assert (found["n"], found["mean_diff"]) == (6, pytest.approx(3 / 6))
    none = {**REFUSED, "monolora, dolly": [np.nan] * 8}
    found = row(compare_prompts(*tables(none), seed=0), "monolora", "lora")
    assert found["n"] == 0
    assert pd.isna(found["mean_diff"])


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    covered = []
    for seed in range(150):
        one, other = ((draw.random(60) < share).astype(float) for share in (0.5, 0.3))
        found = paired_difference(one, other, seed)
        covered.append(found["ci_low"] <= 0.2 <= found["ci_high"])
    assert 0.89 <= np.mean(covered) <= 0.99


def test_what_stands_for_a_task() -> None:
    assert primary_metric(["unparsed", "generated_accuracy"]) == "generated_accuracy"
    assert primary_metric(["loss", "rouge_l"]) == "rouge_l"


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ() -> None:
    one, other = np.array([1.0] * 9 + [0.0] * 3), np.array([0.0] * 8 + [1.0] * 4)
    # 8 gained, 3 lost: P(at most 3 of 11) twice.
    assert mcnemar_p(one, other) == pytest.approx(2 * (1 + 11 + 55 + 165) / 2**11)
    assert mcnemar_p(one, one) == 1
