"""The closed forms against samples, against sums of their definition, and where they are known exactly."""

import numpy as np
import pytest
from numpy.typing import NDArray

from monosem.core.errors import InputError
from monosem.explain.closed_forms import (
    MONO,
    POLY,
    accuracy,
    best_accuracy,
    class_tails,
    fisher,
    moments,
    overtakes,
)

WEIGHTS = [MONO, POLY, (1.0, 0.4), (0.6, -0.2), (-1.0, 2.0), (0.0, 1.0)]
SETTINGS = [(0.0, 0.0, 0.0), (0.3, 0.2, 0.0), (0.9, 0.0, 0.3), (0.6, 0.45, 1.5), (0.99, 0.1, 0.05)]
"""Sparsity, flip, noise."""

N = 1_000_000


def sample(
    sparsity: float, weights: tuple[float, float], flip: float, noise: float, n: int = N
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The feature, whether the label is the first class, and whether it was before flips."""
    draw = np.random.default_rng(7)
    x = draw.random((n, 2)) * (draw.random((n, 2)) >= sparsity)
    first = np.where(x[:, 0] == x[:, 1], draw.random(n) < 0.5, x[:, 0] > x[:, 1])
    given = first ^ (draw.random(n) < flip)
    return (x + noise * draw.standard_normal((n, 2))) @ np.array(weights), given, first


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_moments_tails_and_accuracy_are_those_of_samples(
    weights: tuple[float, float], setting: tuple[float, float, float]
) -> None:
    v, given, true = sample(setting[0], weights, *setting[1:])
    found = moments(setting[0], weights, *setting[1:])
    thresholds = np.quantile(v, [0.02, 0.3, 0.5, 0.8, 0.99]) + 1e-9
    tails = class_tails(thresholds, setting[0], weights, *setting[1:])
    for part, mean, variance, tail in (
        (v[given], found.mean1, found.variance1, tails[0]),
        (v[~given], found.mean2, found.variance2, tails[1]),
    ):
        n = len(part)
        assert abs(part.mean() - mean) < 4 * part.std() / n**0.5
        squares = (part - part.mean()) ** 2
        assert abs(squares.mean() - variance) < 4 * squares.std() / n**0.5
        for threshold, expected in zip(thresholds, tail, strict=True):
            assert abs((part > threshold).mean() - expected) < 4 * (0.25 / n) ** 0.5
    right = [((v > threshold) == true).mean() for threshold in thresholds]
    np.testing.assert_allclose(
        accuracy(thresholds, setting[0], weights, *setting[1:]), right, atol=4 * (0.25 / N) ** 0.5
    )


def test_the_derivation_by_hand() -> None:
    """The two features' mean difference and summed variance, over arrays of sparsity, flip and noise."""
    sparsity, flip, noise = np.meshgrid(np.linspace(0, 0.99, 7), np.linspace(0, 0.5, 5), [0, 0.3, 2])
    p, rest = 1 - sparsity, 1 - 2 * flip
    d0, a = p - 2 * p**2 / 3, 2 * p / 3 - p**2 / 2
    mono, poly = (moments(sparsity, weights, flip, noise) for weights in (MONO, POLY))
    np.testing.assert_allclose(mono.mean1 - mono.mean2, rest * d0, atol=1e-14)
    np.testing.assert_allclose(poly.mean1 - poly.mean2, 2 * rest * d0, atol=1e-14)
    np.testing.assert_allclose(
        mono.variance1 + mono.variance2, a + 2 * noise**2 - (rest * d0) ** 2 / 2, atol=1e-13
    )
    np.testing.assert_allclose(
        poly.variance1 + poly.variance2, 2 * a + 4 * noise**2 - 2 * (rest * d0) ** 2, atol=1e-13
    )


def test_moments_and_difference_symbolically() -> None:
    sympy = pytest.importorskip("sympy")
    x, y, t = sympy.symbols("x y t", positive=True)
    p, w1, w2 = sympy.symbols("p w1 w2", real=True)

    def expected(f):
        """E[f | first class]: both positive and x the larger, or x alone; the rest is at zero."""
        both = sympy.integrate(sympy.integrate(f(x, y), (y, 0, x)), (x, 0, 1))
        alone = sympy.integrate(f(x, 0), (x, 0, 1))
        return sympy.expand(2 * (p**2 * both + p * (1 - p) * alone) + (1 - p) ** 2 * f(0, 0))

    mean = expected(lambda a, b: w1 * a + w2 * b)
    second = expected(lambda a, b: (w1 * a + w2 * b) ** 2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        sparsity, weights = rng.uniform(0, 1), rng.normal(size=2)
        numbers = {p: 1 - sparsity, w1: weights[0], w2: weights[1]}
        found = moments(sparsity, weights)
        assert found.mean1 == pytest.approx(float(mean.subs(numbers)), abs=1e-12)
        variance = float((second - mean**2).subs(numbers))
        assert found.variance1 == pytest.approx(variance, abs=1e-12)
    # Lemma B.2: x1 - x2 on (0, 1) has density p (1 - p) + p^2 (1 - t), in the first class twice that.
    tail = sympy.integrate(2 * (p * (1 - p) + p**2 * (1 - t)), (t, x, 1))
    for sparsity, at in ((0.0, 0.3), (0.7, 0.05), (0.95, 0.9)):
        first, _ = class_tails(at, sparsity, POLY)
        assert first == pytest.approx(float(tail.subs({p: 1 - sparsity, x: at})), abs=1e-12)


@pytest.mark.parametrize("noise", [1e-6, 0.02, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_smoothed_tails_are_sums_over_the_noise(weights: tuple[float, float], noise: float) -> None:
    """Noise as a fine sum of shifts of the noiseless distribution; close and far corners both occur."""
    z = np.linspace(-8, 8, 6001)
    weight = np.exp(-(z**2) / 2)
    shift = noise * np.hypot(*weights) * z[:, None]
    t = np.linspace(-1.5, 2.5, 9)
    # Without sparsity there is no atom, so that a sum over shifts converges.
    plain = class_tails(t - shift, 0.0, weights)
    for smooth, sharp in zip(class_tails(t, 0.0, weights, 0, noise), plain, strict=True):
        np.testing.assert_allclose(smooth, weight @ sharp / weight.sum(), atol=1e-5)


def test_accuracies_that_are_known() -> None:
    sparsity = np.array([0.0, 0.2, 0.5, 0.6, 0.9, 0.999])
    p = 1 - sparsity
    np.testing.assert_allclose(best_accuracy(sparsity, POLY), 1 - sparsity**2 / 2, atol=1e-9)
    expected = 0.5 + p * sparsity + np.maximum(2 * p - 1, 0) ** 2 / 4
    np.testing.assert_allclose(best_accuracy(sparsity, MONO), expected, atol=1e-9)
    # The other way round, and by any factor, it is the same feature.
    np.testing.assert_allclose(best_accuracy(sparsity, (-3.0, 0.0)), expected, atol=1e-9)
    # A sum of both tells nothing of which is larger.
    np.testing.assert_allclose(best_accuracy(sparsity, (1.0, 1.0)), 0.5, atol=1e-9)


def test_the_best_threshold_is_the_best_of_many() -> None:
    for sparsity, flip, noise in SETTINGS:
        for weights in WEIGHTS:
            many = accuracy(np.linspace(-8, 8, 20_001), sparsity, weights, flip, noise)
            best = best_accuracy(sparsity, weights, flip, noise)
            assert best == pytest.approx(np.abs(many - 0.5).max() + 0.5, abs=1e-4)
            assert best >= np.abs(many - 0.5).max() + 0.5 - 1e-9


def test_shapes_broadcast() -> None:
    sparsity, noise = np.linspace(0, 0.9, 4)[:, None], np.linspace(0, 1, 3)
    weights = np.random.default_rng(0).normal(size=(2, 1, 1, 2))
    assert fisher(sparsity, weights, 0.1, noise).shape == (2, 4, 3)
    whole = best_accuracy(sparsity, weights, 0.0, noise)
    assert whole.shape == (2, 4, 3)
    one = best_accuracy(sparsity[1, 0], weights[1, 0, 0], 0.0, noise[2])
    assert whole[1, 1, 2] == pytest.approx(float(one), abs=1e-12)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.95])
def test_neither_flips_nor_noise_let_one_concept_overtake_two(sparsity: float) -> None:
    for criterion in (fisher, best_accuracy):
        assert overtakes(criterion, sparsity, by="flip") is None
        assert overtakes(criterion, sparsity, by="noise") is None
        assert overtakes(criterion, sparsity, POLY, MONO, by="flip") == 0
    # One concept is better than a positive mixture of two from the start.
    assert overtakes(fisher, sparsity, MONO, (1.0, 0.5), by="flip") == 0


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_a_crossing_is_found_where_there_is_one(sparsity: float) -> None:
    def reading(s, w, flip, noise):
        """The difference unsquared, and flip d^2 in place of flip (1 - flip) d^2 within each class."""
        clean = moments(s, w, 0, noise)
        d = clean.mean1 - clean.mean2
        return (1 - 2 * flip) * d / (clean.variance1 + clean.variance2 + 2 * flip * d**2)

    assert overtakes(reading, sparsity, by="flip") == pytest.approx(0.25, abs=1e-8)
    # Under input noise it is at the same rate, and no noise makes it cross.
    assert overtakes(reading, sparsity, by="flip", other=0.7) == pytest.approx(0.25, abs=1e-6)
    assert overtakes(reading, sparsity, by="noise") is None
    if sparsity == 0:  # unsquared, the criterion depends on the feature's unit, and so does the crossing
        for factor, crossing in ((0.5, 0.0), (0.9, 0.1818182), (1.1, 1 / 3), (2.0, None)):
            found = overtakes(reading, 0.0, (factor, 0.0), by="flip")
            assert found == (None if crossing is None else pytest.approx(crossing, abs=1e-6))


def test_crossings_are_found_however_small_the_criterion() -> None:
    assert fisher(0.99999, POLY, 0.0, 10.0) < 1e-11
    assert overtakes(fisher, 0.99999, POLY, MONO, by="flip", other=10.0) == 0
    assert overtakes(fisher, 0.99999, MONO, POLY, by="flip", other=10.0) is None


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, 1.5])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.95])
def test_all_weights_are_ordered_from_the_antipodal_pair_to_the_even_mixture(
    sparsity: float, noise: float
) -> None:
    weights = np.stack([np.ones(21), np.linspace(-1, 1, 21)], axis=-1)
    for criterion in (fisher, best_accuracy):
        found = criterion(sparsity, weights, 0.0, noise)
        assert (np.diff(found) < 1e-9).all()
        assert found[0] > found[10] + 1e-4 > found[20] + 2e-4  # antipodal, one concept, even mixture
    np.testing.assert_allclose(best_accuracy(sparsity, weights[-1], 0.0, noise), 0.5, atol=1e-9)


def criterion_of(first: NDArray[np.float64], values: NDArray[np.float64], flip: float) -> float:
    """Fisher's J of a discrete feature: P(value, first class) and P(value, second class), labels flipped."""
    given = (1 - flip) * first + flip * first[::-1]
    shares = given.sum(1)
    means = given @ values / shares
    variances = given @ values**2 / shares - means**2
    return float((means[0] - means[1]) ** 2 / variances.sum())


@pytest.mark.parametrize(("share", "some_change_places"), [(0.5, False), (0.8, True)])
def test_flips_re_order_features_of_unbalanced_classes_only(share: float, some_change_places: bool) -> None:
    """Random features of five values in place of concepts: nothing else about the data matters."""
    draw = np.random.default_rng(3)
    changed = 0
    for _ in range(2000):
        pair = []
        for _ in range(2):
            joint = draw.dirichlet(np.full(5, 0.5), 2) * np.array([[share], [1 - share]])
            pair.append((joint, draw.normal(size=5)))
        clean, flipped = (criterion_of(*pair[0], flip) - criterion_of(*pair[1], flip) for flip in (0.0, 0.3))
        changed += clean * flipped < -1e-12
    assert (changed > 20) if some_change_places else changed == 0


@pytest.mark.parametrize(("sparsity", "crossing"), [(0.5, None), (0.55, 0.236), (0.58, 0.09), (0.7, 0.0)])
def test_ties_that_all_go_to_one_class_let_one_concept_overtake(
    sparsity: float, crossing: float | None
) -> None:
    """Pairs on a grid stand in for the two uniform concepts; a tie is of the second class."""
    x = np.concatenate([[0.0], (np.arange(400) + 0.5) / 400])
    weight = np.concatenate([[sparsity], np.full(400, (1 - sparsity) / 400)])
    x1, x2 = (part.ravel() for part in np.meshgrid(x, x, indexing="ij"))
    mass = np.outer(weight, weight).ravel()
    # Equal positive concepts are a matter of the grid: half of them to either class.
    share = np.where(x1 > x2, 1.0, np.where((x1 == x2) & (x1 > 0), 0.5, 0.0))
    joint = np.stack([mass * share, mass * (1 - share)])
    flips = np.linspace(0, 0.499, 500)
    lead = [criterion_of(joint, x1, flip) - criterion_of(joint, x1 - x2, flip) for flip in flips]
    ahead = flips[np.array(lead) > 0]
    if crossing is None:
        assert not len(ahead)
    else:
        assert ahead[0] == pytest.approx(crossing, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, MONO), "sparsity"),
        ((-0.1, MONO), "sparsity"),
        ((0.5, (1.0,)), "weights"),
        ((0.5, (0.0, 0.0)), "weights"),
        ((0.5, (np.nan, 1.0)), "weights"),
        ((0.5, MONO, 1.5), "flip"),
        ((0.5, MONO, 0.1, -1), "noise"),
    ],
)
def test_settings_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}: must be"):
        fisher(*arguments)
    with pytest.raises(InputError, match="neither flip nor noise"):
        overtakes(fisher, 0.5, by="eta")
