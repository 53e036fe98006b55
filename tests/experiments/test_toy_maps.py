"""Maps of toy models on a world small enough to check cell by cell."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp

from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.experiments.toy_maps import APART, SUPERPOSED, compare_toys, measure_share, train_all
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.explain.toy_model import toy_samples

KINDS = (SUPERPOSED, *APART)


def recipe(**changes: Any) -> ToyRecipe:
    tree = {
        "title": "tiny",
        "kind": "toy",
        "n_models": 3,
        "model": {"n_concepts": 6, "n_dims": 3, "importance": 0.5, "steps": 1500, "batch_size": 64},
        "sparsity": [0.0, 0.9],
        "label_noise": [0.3, 0.6],
        "input_noise": [0.2],
        "n_train": 300,
        "n_test": 400,
        "published": {"epochs": 10, "batch_size": 50},
        "tuned": {},
    }
    return parse(ToyRecipe, {**tree, **changes}, "tiny")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return train_all(recipe())


@pytest.fixture(scope="module")
def results(weights: dict[str, torch.Tensor]) -> pd.DataFrame:
    return pd.concat([measure_share(recipe(), weights, place) for place in (0, 1)])


def test_every_kind_is_measured_in_every_cell(results: pd.DataFrame) -> None:
    accuracy = results[results["metric"] == "accuracy"]
    cells = accuracy.groupby(["dataset", "features", "encoder_seed", "protocol", "condition", "level"]).size()
    assert (cells == 1).all()
    per_model = 2 * (3 + 2)  # two protocols; clean and two rates, clean and one noise
    assert len(cells) == 2 * len(KINDS) * 3 * per_model
    assert accuracy["value"].between(0, 1).all()
    # Wrong labels and noisy inputs cost something.
    means = accuracy.groupby(["protocol", "condition", "level"])["value"].mean()
    assert means["tuned", "label-noise-symmetric", 0.0] > means["tuned", "label-noise-symmetric", 0.6]
    assert means["tuned", "input-noise-gaussian", 0.0] > means["tuned", "input-noise-gaussian", 0.2]


def test_the_kinds_are_what_they_are_called(results: pd.DataFrame, weights: dict[str, torch.Tensor]) -> None:
    kept = results[results["metric"] == "concepts_kept"].set_index(["dataset", "features"])["value"]
    kept = kept.sort_index()
    assert (kept["S=0.9", "exact"] == 3).all()
    assert (kept["S=0.9", SUPERPOSED] > 3).all()
    # Trained where samples are dense, and with a linear output, there are no more concepts than dimensions.
    for kind in ("dense-trained", "linear"):
        assert (kept["S=0.9", kind] <= 3).all()
    # One and the same model for every sparsity.
    assert weights["dense-trained"].shape == (3, 3, 6)
    interference = results[(results["metric"] == "interference") & (results["features"] == "exact")]
    assert (interference["value"] == 0).all()


def test_the_exact_map_sees_the_first_concepts_alone(weights: dict[str, torch.Tensor]) -> None:
    """With clean labels its accuracy is at most that of knowing three of six concepts."""
    found = measure_share(recipe(), weights, 1)
    best = found[
        (found["features"] == "exact") & (found["protocol"] == "tuned") & (found["level"] == 0)
        & (found["metric"] == "accuracy") & (found["condition"] == "label-noise-symmetric")
    ]  # fmt: skip
    _, labels = toy_samples(400, 6, 0.9, 1_000_003)
    guess = float((labels >= 3).float().mean()) * 0.67  # of what it cannot see it may guess one in three
    assert best["value"].iloc[0] <= 1 - guess + 0.05


def test_comparisons_are_paired_over_models(results: pd.DataFrame) -> None:
    table = compare_toys(results, recipe())
    assert len(table) == 2 * 2 * 5 * len(APART)
    row = table[
        (table["dataset"] == "S=0.9") & (table["protocol"] == "published") & (table["level"] == 0.6)
        & (table["features"] == "linear")
    ].iloc[0]  # fmt: skip
    accuracy = results[
        (results["metric"] == "accuracy") & (results["dataset"] == "S=0.9") & (results["level"] == 0.6)
        & (results["protocol"] == "published") & (results["condition"] == "label-noise-symmetric")
    ].set_index(["features", "encoder_seed"])["value"]  # fmt: skip
    differences = (accuracy["linear"] - accuracy[SUPERPOSED]).to_numpy()
    assert row["mean_diff"] == pytest.approx(differences.mean())
    assert row["p"] == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert (table["p_holm"] >= table["p"] - 1e-12).all()
    assert set(table["verdict"].str.split().str[0]) <= {"tie", "helps", "hurts", "undecidable"}


def test_the_same_recipe_gives_the_same_numbers(weights: dict[str, torch.Tensor]) -> None:
    again = train_all(recipe())
    for kind in weights:
        assert torch.equal(weights[kind], again[kind])
    other = train_all(recipe(seed=50))
    assert not np.allclose(weights["linear"], other["linear"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": [1.0]}, "sparsity must be at least 0 and below 1"),
        ({"label_noise": [0.0]}, "noise levels must be above 0"),
        ({"model": {"n_concepts": 3, "n_dims": 4}}, r"n_dims \(4\) may not exceed n_concepts \(3\)"),
    ],
)
def test_recipes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**changes)
