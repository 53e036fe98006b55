import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monosem.core.errors import InputError
from monosem.experiments.comparisons import (
    BOOTSTRAP_UNIT,
    COMPARISON_COLUMNS,
    GAIN,
    PRIMARY,
    compare,
    primary,
)
from monosem.experiments.results import accuracies, endpoints

CONDITION = "label-noise-symmetric"
DENSE = np.array([0.50, 0.52, 0.51, 0.49, 0.50, 0.53])


def test_the_endpoint_is_the_mean_over_noisy_levels_and_draws(planted_results):
    results = planted_results({("tuned", "simclr"): DENSE})
    np.testing.assert_allclose(endpoints(results).loc["tuned", CONDITION, "simclr"], DENSE)
    table = accuracies(results, "tuned", CONDITION, "simclr")
    assert table.shape == (6 * 3, 3)
    np.testing.assert_allclose(table[0.0], np.repeat(DENSE + 0.1, 3))
    assert accuracies(results, "oracle", CONDITION, "simclr").empty


def test_comparisons_are_paired_t_tests_over_encoders(planted_results):
    ncl = DENSE + np.array([0.03, 0.02, 0.04, 0.03, 0.01, 0.05])
    sae = DENSE + np.array([0.001, -0.001, 0.002, -0.002, 0.0005, -0.0005])
    results = planted_results(
        {
            ("tuned", "simclr"): DENSE,
            ("tuned", "ncl"): ncl,
            ("tuned", "sae"): sae,
            ("tuned", "relu"): ncl - 0.1,
        }
    )
    comparisons = compare(results, margin=0.01)
    assert tuple(comparisons.columns) == COMPARISON_COLUMNS
    expected = stats.ttest_rel(ncl, DENSE)
    low, high = expected.confidence_interval()
    row = primary(comparisons, "tuned", CONDITION, "ncl")
    np.testing.assert_allclose(
        [row["mean_diff"], row["ci_low"], row["ci_high"]], [(ncl - DENSE).mean(), low, high]
    )
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["p_holm"] == pytest.approx(
        2 * expected.pvalue
    )  # two claims in the family; the control is none
    assert (row["verdict"], row["unit"], row["n_encoders"], row["n_noise"]) == ("helps", "encoder", 6, 3)
    assert row["p_sign_flip"] == pytest.approx(2 / 2**6)
    assert primary(comparisons, "tuned", CONDITION, "sae")["verdict"] == "tie"

    control = primary(comparisons, "tuned", CONDITION, "relu")
    assert pd.isna(control["p"])
    assert pd.isna(control["verdict"])
    assert control["ci_low"] < control["mean_diff"] < control["ci_high"]
    levels = comparisons[comparisons["endpoint"].str.startswith("level")]
    assert set(levels["endpoint"]) == {"level 0.2", "level 0.4"}
    assert levels["p"].isna().all()


def test_a_gain_that_is_there_without_noise_too_is_no_gain_in_robustness(planted_results):
    results = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE + 0.05})
    comparisons = compare(results, margin=0.01).set_index(["features", "endpoint"])
    assert comparisons.loc[("ncl", PRIMARY), "mean_diff"] == pytest.approx(0.05)
    assert comparisons.loc[("ncl", "clean"), "mean_diff"] == pytest.approx(0.05)
    assert comparisons.loc[("ncl", GAIN), "mean_diff"] == pytest.approx(0.0, abs=1e-12)


def test_with_few_encoders_the_unit_is_the_probe(planted_results):
    shift = np.array([0.03, 0.02, 0.04])
    results = planted_results({("tuned", "simclr"): DENSE[:3], ("tuned", "ncl"): DENSE[:3] + shift})
    comparisons = compare(results, margin=0.01)
    row = primary(comparisons, "tuned", CONDITION, "ncl")
    assert row["unit"] == "probe"
    assert row["p"] == pytest.approx(stats.ttest_1samp(np.repeat(shift, 3), 0).pvalue)
    # Clean probes have no noise draws to differ by: three values, not nine.
    (clean,) = comparisons[comparisons["endpoint"] == "clean"].to_dict("records")
    low, high = stats.ttest_1samp(shift, 0).confidence_interval()
    assert [clean["ci_low"], clean["ci_high"]] == pytest.approx([low, high])


def test_one_probe_decides_nothing(planted_results):
    results = planted_results({("tuned", "simclr"): [0.1], ("tuned", "ncl"): [0.9]}, n_noise=1)
    assert (
        primary(compare(results, margin=0.01), "tuned", CONDITION, "ncl")["verdict"] == "undecidable with 1"
    )


def test_results_with_holes_are_refused(planted_results):
    results = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE + 0.05})
    hole = (results["features"] == "ncl") & (results["level"] == 0.4) & (results["noise_seed"] == 1)
    with pytest.raises(
        InputError, match=r"ncl, tuned, label-noise-symmetric: some level or noise draw is missing"
    ):
        compare(results[~hole], margin=0.01)
    with pytest.raises(InputError, match="missing"):
        compare(results[results["level"] > 0], margin=0.01)


def test_wide_scatter_is_undecidable_not_a_tie(planted_results):
    scatter = np.array([0.2, -0.2, 0.1, -0.1, 0.15, -0.12])
    results = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE + scatter})
    assert (
        primary(compare(results, margin=0.01), "tuned", CONDITION, "ncl")["verdict"] == "undecidable with 6"
    )


def test_exchanging_the_sides_exchanges_the_verdict(planted_results):
    gain = np.array([0.03, 0.02, 0.04, 0.03, 0.01, 0.05])
    better = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE + gain})
    worse = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE - gain})
    rows = [primary(compare(results, margin=0.01), "tuned", CONDITION, "ncl") for results in (better, worse)]
    assert [row["verdict"] for row in rows] == ["helps", "hurts"]
    assert rows[0]["p"] == pytest.approx(rows[1]["p"])


def test_the_bootstrap_over_images_is_named_and_carries_no_p(planted_results):
    results = planted_results({("tuned", "simclr"): DENSE, ("tuned", "ncl"): DENSE + 0.05})
    rng = np.random.default_rng(0)
    correctness = {
        ("simclr", "tuned", CONDITION): rng.random((6, 50)),
        ("ncl", "tuned", CONDITION): rng.random((6, 50)),
    }
    comparisons = compare(results, margin=0.01, correctness=correctness)
    (row,) = comparisons[comparisons["unit"] == BOOTSTRAP_UNIT].to_dict("records")
    difference = correctness["ncl", "tuned", CONDITION] - correctness["simclr", "tuned", CONDITION]
    assert row["mean_diff"] == pytest.approx(difference.mean())
    assert row["ci_low"] < row["mean_diff"] < row["ci_high"]
    assert pd.isna(row["p"])
    assert pd.isna(row["verdict"])
