"""Agreement of scores against scipy's rank correlation."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from monosem.core.errors import InputError
from monosem.measures.agreement import score_agreement


def test_every_two_scores_over_the_dimensions_of_both() -> None:
    draw = np.random.default_rng(0)
    a = draw.random(50)
    b = a + 0.3 * draw.random(50)
    c = draw.integers(0, 4, 50).astype(float)  # with ties
    a[:10], b[5:12] = np.nan, np.nan
    found = score_agreement({"a": a, "b": b, "c": c})
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    for (one, other), rho in found.items():
        x, y = {"a": a, "b": b, "c": c}[one], {"a": a, "b": b, "c": c}[other]
        assert rho == pytest.approx(spearmanr(x, y, nan_policy="omit").statistic)
    assert found["a", "b"] > 0.7


def test_the_same_order_the_other_way_round_and_none() -> None:
    a = np.arange(6.0)
    found = score_agreement({"a": a, "b": np.exp(a), "c": -a, "d": np.ones(6), "e": np.full(6, np.nan)})
    assert found["a", "b"] == pytest.approx(1)
    assert found["a", "c"] == pytest.approx(-1)
    assert found["a", "d"] == 0
    assert np.isnan(found["a", "e"])


def test_scores_of_different_sets() -> None:
    with pytest.raises(InputError, match="a 3, b 4"):
        score_agreement({"a": np.ones(3), "b": np.ones(4)})
