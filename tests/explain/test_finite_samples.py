"""Learned thresholds against plain loops, and against what many samples must give."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monosem.explain.closed_forms import MONO, POLY, accuracy
from monosem.explain.finite_samples import RULES, fewest_errors, learned_accuracy, midpoint


def samples(repeats: int = 60, n: int = 9) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """With equal values among them, and now and then a class that is missing."""
    draw = np.random.default_rng(3)
    values = draw.integers(-3, 4, (repeats, n)) / 2
    first = draw.random((repeats, n)) < draw.random((repeats, 1))
    first[0], first[1] = True, False
    return values, first


def test_midpoint_is_halfway_between_the_means() -> None:
    values, first = samples()
    threshold, sign = midpoint(values, first)
    for v, y, t, s in zip(values, first, threshold, sign, strict=True):
        if y.all() or not y.any():
            assert s == 0
            continue
        assert t == pytest.approx((v[y].mean() + v[~y].mean()) / 2)
        assert s == np.sign(v[y].mean() - v[~y].mean())


def test_fewest_errors_is_the_best_of_all_cuts() -> None:
    values, first = samples()
    threshold, sign = fewest_errors(values, first)
    for v, y, t, s in zip(values, first, threshold, sign, strict=True):
        cuts = np.unique(v)[:-1] + 0.25
        errors = [min(((v > c) != y).sum(), ((v > c) == y).sum()) for c in cuts]
        if s == 0:  # no cut is better than a guess
            assert min(errors, default=len(v) / 2) >= len(v) / 2
            continue
        found = ((v > t) != y) if s > 0 else ((v > t) == y)
        # A cut may not do better than giving all the same answer; among cuts it is the best.
        assert found.sum() == min(errors)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_many_samples_come_close_to_the_best_threshold(rule) -> None:
    for sparsity, flip, noise in ((0.0, 0.3, 0.2), (0.5, 0.1, 0.0)):
        learned = learned_accuracy(rule, 20_000, sparsity, POLY, flip, noise, repeats=5)
        best = float(accuracy(0.0, sparsity, POLY, 0, noise))
        assert learned.mean() == pytest.approx(best, abs=0.02)
        assert learned.max() <= best + 1e-9


def test_what_is_learned_is_worth_what_samples_say() -> None:
    learned = learned_accuracy(midpoint, 12, 0.4, MONO, 0.2, 0.3, repeats=3, seed=5)
    draw = np.random.default_rng(0)
    x = draw.random((400_000, 2)) * (draw.random((400_000, 2)) >= 0.4)
    first = np.where(x[:, 0] == x[:, 1], draw.random(400_000) < 0.5, x[:, 0] > x[:, 1])
    v = x[:, 0] + 0.3 * draw.standard_normal(400_000)
    # Each is what some threshold gives, one way or the other.
    grid = np.linspace(-1, 2, 3001)
    worth = accuracy(grid, 0.4, MONO, 0, 0.3)
    for value in learned:
        t = grid[np.abs(np.where(value >= 0.5, worth, 1 - worth) - value).argmin()]
        right = ((v > t) == first).mean()
        assert (right if value >= 0.5 else 1 - right) == pytest.approx(value, abs=0.005)


def test_the_same_seed_pairs_features() -> None:
    one, again, other = (learned_accuracy(midpoint, 8, 0.2, MONO, 0.1, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # Scale is of no consequence: the same samples, the same answers.
    np.testing.assert_allclose(learned_accuracy(midpoint, 8, 0.2, (5.0, 0.0), 0.1, seed=1), one, atol=1e-12)
