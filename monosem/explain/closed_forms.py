"""The two-concept theory in closed form: when does a feature of one concept beat one of two (4.3, App. B)?

Two concepts x1, x2 are independent, zero with probability S (the sparsity) and else uniform on [0, 1]. The
label is the larger one, ties are broken evenly. A feature is v = w1 x1 + w2 x2: (1, 0) is the paper's
monosemantic one, (1, -1) its polysemantic one. Labels are flipped with probability `flip`; Gaussian noise of
standard deviation `noise` is added to both concepts after they were labelled. docs/theory.md derives all of
it. Everything takes arrays that broadcast against each other; weights are `[..., 2]`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from monosem.core.errors import InputError

Array = NDArray[np.float64]
Criterion = Callable[[ArrayLike, ArrayLike, ArrayLike, ArrayLike], Array]
"""Of sparsity, weights, flip and noise: larger is better. `fisher` is one."""

MONO, POLY = (1.0, 0.0), (1.0, -1.0)
"""Weights of the paper's features: its first concept alone, and an antipodal pair."""

_GAUSS = [(0.5 + 0.5 * x, 0.5 * w) for x, w in zip(*np.polynomial.legendre.leggauss(12), strict=True)]
"""Points and weights on [0, 1]; exact to rounding over stretches shorter than `_CLOSE`."""

_CLOSE = 1.0  # divided differences over less than this are integrated, not subtracted
_GRID, _REFINEMENTS = 257, 50
_LEAD = 1e-9  # a lead that is a smaller part of the criterion is rounding


@dataclass(frozen=True)
class Moments:
    """Mean and variance of a feature in the first class and in the second, each `[...]`."""

    mean1: Array
    mean2: Array
    variance1: Array
    variance2: Array


def moments(sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike = 0, noise: ArrayLike = 0) -> Moments:
    """Class-conditional means and variances, classes being those of the flipped labels.

    Source: Theorems B.1, B.3 (clean), B.5, B.6 (flips), B.7, B.8 (input noise), for any weights.
    Raises InputError for a sparsity outside [0, 1), a flip outside [0, 1], a negative noise, or weights that
    are not finite or all zero.
    """
    s, w, eta, sigma = _checked(sparsity, weights, flip, noise)
    p = 1 - s
    own, other = p - p**2 / 3, p**2 / 3  # E[x1] in the first class and in the second
    own_square, other_square, product = 2 * p / 3 - p**2 / 6, p**2 / 6, p**2 / 4
    w1, w2 = w[..., 0], w[..., 1]

    def second(first: Array, last: Array) -> Array:
        return w1**2 * first + w2**2 * last + 2 * w1 * w2 * product

    means = (w1 * own + w2 * other, w1 * other + w2 * own)
    seconds = (second(own_square, other_square), second(other_square, own_square))
    mean1, mean2 = _flipped(*means, eta)
    second1, second2 = _flipped(*seconds, eta)
    added = (w1**2 + w2**2) * sigma**2
    return Moments(mean1, mean2, second1 - mean1**2 + added, second2 - mean2**2 + added)


def fisher(sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike = 0, noise: ArrayLike = 0) -> Array:
    """Fisher's criterion J: squared difference of the class means over the sum of the class variances."""
    found = moments(sparsity, weights, flip, noise)
    return (found.mean1 - found.mean2) ** 2 / (found.variance1 + found.variance2)


def class_tails(
    threshold: ArrayLike, sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike = 0, noise: ArrayLike = 0
) -> tuple[Array, Array]:
    """P(v > threshold) in the first class and in the second: one minus the distributions, exactly.

    Source: Lemma B.2 (x1 - x2) and Lemma B.4 (mixtures under flips), for any weights.
    """
    s, w, eta, sigma = _checked(sparsity, weights, flip, noise)
    t, s, eta, sigma, w1, w2 = np.broadcast_arrays(
        np.asarray(threshold, np.float64), s, eta, sigma, w[..., 0], w[..., 1]
    )
    spread = sigma * np.hypot(w1, w2)

    def tail(larger: Array, smaller: Array) -> Array:
        # v at the corners of the triangle on which this concept is the larger one: none, it alone, both.
        corners = np.stack([np.zeros_like(larger), larger, larger + smaller]) - t
        p = 1 - s
        alone, both = _average_steps(corners, spread)
        return s**2 * _step(corners[0], spread) + 2 * p * s * alone + p**2 * both

    return _flipped(tail(w1, w2), tail(w2, w1), eta)


def accuracy(
    threshold: ArrayLike, sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike = 0, noise: ArrayLike = 0
) -> Array:
    """Share of right answers, on labels that are not flipped, of "the first class where v > threshold".

    flip is of no consequence here: it moves no sample. It is there so that all criteria take the same.
    """
    _checked(sparsity, weights, flip, noise)
    first, second = class_tails(threshold, sparsity, weights, 0, noise)
    return 0.5 + (first - second) / 2


def best_accuracy(
    sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike = 0, noise: ArrayLike = 0
) -> Array:
    """Accuracy of the best single threshold on the feature, either side of it being the first class.

    With symmetric flips below 1/2 the threshold that is best for flipped labels is the same one: the
    accuracy on them is flip + (1 - 2 flip) times this one.
    """
    s, w, eta, sigma = _checked(sparsity, weights, flip, noise)
    s, eta, sigma, w1, w2 = np.broadcast_arrays(s, eta, sigma, w[..., 0], w[..., 1])
    w = np.stack([w1, w2], axis=-1)
    reach = 4 * sigma * np.hypot(w1, w2)
    low = np.minimum(0, np.minimum(w1, np.minimum(w2, w1 + w2))) - reach
    high = np.maximum(0, np.maximum(w1, np.maximum(w2, w1 + w2))) + reach

    def gain(t: Array) -> Array:
        return np.abs(accuracy(t, s, w, 0, sigma) - 0.5)

    steps = np.linspace(0, 1, _GRID).reshape(-1, *[1] * s.ndim)
    grid = np.concatenate([low + (high - low) * steps, np.zeros((1, *s.shape))])  # 0 holds an atom
    values = gain(grid)
    best = values.argmax(0)[None]
    middle = np.take_along_axis(grid, best, 0)[0]
    step = (high - low) / (_GRID - 1)
    left, right = middle - step, middle + step
    golden = (5**0.5 - 1) / 2
    for _ in range(_REFINEMENTS):
        inner = right - golden * (right - left), left + golden * (right - left)
        keep_left = gain(inner[0]) > gain(inner[1])
        left, right = np.where(keep_left, left, inner[0]), np.where(keep_left, inner[1], right)
    found: Array = 0.5 + np.maximum(values.max(0), gain((left + right) / 2))
    return found


def overtakes(
    criterion: Criterion,
    sparsity: float,
    weights: ArrayLike = MONO,
    rival: ArrayLike = POLY,
    *,
    by: str,
    other: float = 0.0,
    most: float | None = None,
) -> float | None:
    """The smallest flip rate, or noise, at which a feature is better than its rival; None if it never is.

    criterion: such as `fisher` or `best_accuracy`. by: "flip" or "noise"; `other` is the value of the one
    that stays. most: how far to look, 0.5 for flips and 10 for noise by default. 0.0 where it is better from
    the start. Looked for on a grid of 501 values, then to 1e-10: a lead between two of them is missed.
    Raises InputError as `moments`, and for another `by`.
    """
    if by not in ("flip", "noise"):
        raise InputError(f"by: '{by}' is neither flip nor noise")
    most = most if most is not None else {"flip": 0.5, "noise": 10.0}[by]

    def leads(values: Array) -> NDArray[np.bool_]:
        at = (values, np.float64(other)) if by == "flip" else (np.float64(other), values)
        own, others = criterion(sparsity, weights, *at), criterion(sparsity, rival, *at)
        found: NDArray[np.bool_] = own - others > _LEAD * np.maximum(np.abs(own), np.abs(others))
        return found

    low, high = 0.0, most
    while True:
        values = np.linspace(low, high, 501)
        ahead = np.flatnonzero(leads(values))
        if not len(ahead):
            return None
        first = int(ahead[0])
        if first == 0 or high - low < 1e-10:
            return float(values[first])
        low, high = values[first - 1], values[first]


def _flipped(first: Array, second: Array, flip: Array) -> tuple[Array, Array]:
    """What classes have once labels are flipped: mixtures of what they had."""
    return (1 - flip) * first + flip * second, (1 - flip) * second + flip * first


def _checked(
    sparsity: ArrayLike, weights: ArrayLike, flip: ArrayLike, noise: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    s, w, eta, sigma = (np.asarray(value, np.float64) for value in (sparsity, weights, flip, noise))
    if not ((s >= 0) & (s < 1)).all():
        raise InputError(f"sparsity: must be at least 0 and below 1, got {s}")
    if w.shape[-1:] != (2,) or not np.isfinite(w).all() or not w.any(-1).all():
        raise InputError(f"weights: must be two finite numbers, not both zero, got {w}")
    if not ((eta >= 0) & (eta <= 1)).all():
        raise InputError(f"flip: must be a probability, got {eta}")
    if not ((sigma >= 0) & np.isfinite(sigma)).all():
        raise InputError(f"noise: must be a standard deviation, got {sigma}")
    return s, w, eta, sigma


def _average_steps(corners: Array, spread: Array) -> tuple[Array, Array]:
    """P(value + noise > 0) for a value spread evenly over the first edge, and over the triangle.

    corners: the value at three corners, [3, ...], between which it is linear. By Hermite and Genocchi such
    averages of f'' are divided differences of f; here f'' is the step, smoothed by the noise.
    """
    scale = np.where(spread > 0, spread, 1.0)
    u = corners / scale
    smooth = spread > 0
    edge = np.where(smooth, _divided(_ramp, _smooth_step, u[0], u[1]), _sharp_edge(u[0], u[1]))
    low, middle, high = np.sort(u, axis=0)
    span = high - low
    upper, lower = (
        np.where(smooth, _divided(_bowl, _ramp, *pair), _sharp_ramp(*pair))
        for pair in ((middle, high), (low, middle))
    )
    close = span < np.where(smooth, _CLOSE, 1e-300)
    far = (upper - lower) / np.where(close, 1.0, span)
    found = np.where(close & (low > 0), 0.5, far)
    within = close & smooth
    found[within] = _triangle(u[:, within])
    return edge, 2 * found


def _step(u: Array, spread: Array) -> Array:
    smooth = spread > 0
    return np.where(smooth, ndtr(u / np.where(smooth, spread, 1.0)), (u > 0).astype(np.float64))


def _smooth_step(u: Array) -> Array:
    found: Array = ndtr(u)
    return found


def _ramp(u: Array) -> Array:
    """Antiderivative of the smooth step."""
    found: Array = u * ndtr(u) + _bell(u)
    return found


def _bowl(u: Array) -> Array:
    """Antiderivative of the ramp."""
    found: Array = ((u**2 + 1) * ndtr(u) + u * _bell(u)) / 2
    return found


def _bell(u: Array) -> Array:
    found: Array = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    return found


def _divided(f: Callable[[Array], Array], slope: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """(f(b) - f(a)) / (b - a), as the mean slope where a and b are close."""
    close = np.abs(b - a) < _CLOSE
    quotient = (f(b) - f(a)) / np.where(close, 1.0, b - a)
    mean = sum(weight * slope(a + node * (b - a)) for node, weight in _GAUSS)
    return np.where(close, mean, quotient)


def _triangle(u: Array) -> Array:
    """The smooth step's integral over a triangle of area 1/2 with these values at its corners, [3, n]."""
    total = np.zeros(u.shape[1:])
    for outer, outer_weight in _GAUSS:
        for inner, inner_weight in _GAUSS:
            value = u[0] + outer * (u[1] - u[0]) + outer * inner * (u[2] - u[1])
            total += outer_weight * outer * inner_weight * _smooth_step(value)
    return total


def _sharp_edge(a: Array, b: Array) -> Array:
    """Share of the way from a to b that lies above 0."""
    same = a == b
    share = (np.maximum(b, 0) - np.maximum(a, 0)) / np.where(same, 1.0, b - a)
    return np.where(same, (a > 0).astype(np.float64), share)


def _sharp_ramp(a: Array, b: Array) -> Array:
    """Mean of max(u, 0) between a and b, of which b is the larger one."""
    crossing = np.maximum(b, 0) ** 2 / (2 * np.where(b > a, b - a, 1.0))
    return np.where(a >= 0, (a + b) / 2, np.where(b > 0, crossing, 0.0))
