"""Does one concept ever beat two for a threshold that was learned from few, wrongly labelled samples?

docs/theory.md shows that it never does in the limit of many samples. Here thresholds are learned from N; what
they are worth is then exact (`closed_forms.accuracy`), so that only the training sample is left to chance.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monosem.core.seeding import numpy_stream
from monosem.explain.closed_forms import accuracy

Array = NDArray[np.float64]
Rule = Callable[[Array, NDArray[np.bool_]], tuple[Array, Array]]
"""From features and labels (first class or not), each [R, N], to thresholds and signs, each [R]: the first
class is predicted above the threshold where the sign is 1, below it where it is -1; sign 0 guesses."""


def midpoint(values: Array, first: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Halfway between the class means: Fisher's discriminant. A class without samples leaves a guess."""
    n1 = first.sum(1)
    n2 = first.shape[1] - n1
    both = (n1 > 0) & (n2 > 0)
    mean1 = (values * first).sum(1) / np.maximum(n1, 1)
    mean2 = (values * ~first).sum(1) / np.maximum(n2, 1)
    return (mean1 + mean2) / 2, np.where(both, np.sign(mean1 - mean2), 0.0)


def fewest_errors(values: Array, first: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The cut between two neighbouring values with the fewest training errors, either side being first."""
    order = np.argsort(values, axis=1)
    v = np.take_along_axis(values, order, 1)
    signs = np.where(np.take_along_axis(first, order, 1), 1, -1)
    below = np.cumsum(signs, axis=1)
    # Right answers with "first above the cut", minus half of all: a large negative is good the other way.
    score = (below[:, -1:] - 2 * below)[:, :-1].astype(np.float64)
    score[v[:, 1:] <= v[:, :-1]] = 0  # equal values cannot be parted
    best = np.abs(score).argmax(1)[:, None]
    cut = (np.take_along_axis(v, best, 1) + np.take_along_axis(v, best + 1, 1)) / 2
    return cut[:, 0], np.sign(np.take_along_axis(score, best, 1)[:, 0])


RULES: Mapping[str, Rule] = {"midpoint": midpoint, "fewest errors": fewest_errors}


def learned_accuracy(
    rule: Rule,
    n: int,
    sparsity: float,
    weights: ArrayLike,
    flip: float = 0.0,
    noise: float = 0.0,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> Array:
    """Accuracy on clean labels of thresholds learned from n samples with flipped labels, [repeats].

    The same seed draws the same concepts, labels and noise whatever the weights: differences are paired.
    Inputs carry the noise in training and in testing. Raises InputError as `closed_forms.moments`.
    """
    draw = numpy_stream(seed, "finite_samples")
    x = draw.random((repeats, n, 2)) * (draw.random((repeats, n, 2)) >= sparsity)
    tie = draw.random((repeats, n)) < 0.5
    first = np.where(x[..., 0] == x[..., 1], tie, x[..., 0] > x[..., 1])
    first ^= draw.random((repeats, n)) < flip
    values = (x + noise * draw.standard_normal(x.shape)) @ np.asarray(weights, np.float64)
    threshold, sign = rule(values, first)
    return 0.5 + sign * (accuracy(threshold, sparsity, weights, 0, noise) - 0.5)
