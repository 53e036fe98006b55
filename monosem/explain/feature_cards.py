"""What there is to show of single dimensions: what activates each, of which classes, who leans on it.

The numbers behind the feature browser, on plain arrays; `monosem.report.browser` makes a page of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.core.errors import InputError
from monosem.explain.salience import top_samples
from monosem.measures.blocks import Features, Labels, check_labels, features_shape, row_blocks

_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Classifier:
    """A linear classifier on a feature set, as its cards show it.

    title: what it is, in words. weights: `[K, F]`, of the dimensions shown, on the scale of the features.
    accuracies: of each class on the samples shown, `[K]`; nan for a class without samples.
    """

    title: str
    weights: NDArray[np.float64]
    accuracies: NDArray[np.float64]


@dataclass(frozen=True)
class FeatureCards:
    """F of the D dimensions of a feature set, over the same N samples of K classes for every set.

    numbers: which dimensions, `[F]`. scores: by name, `[F]` each; nan where not scored. density: share of
    samples with a positive activation, `[F]`. class_shares: of the positive activation, how much falls on
    samples of each class, `[F, K]`; zeros where none is positive. histogram: how many of the activations that
    are not zero fall into equal bins, `[F, B]`, between the least and the largest of them, span `[F, 2]`.
    samples: those that activate it most, the most active first, `[F, S]`, and their activations; -1 and 0
    where fewer have a positive activation.
    """

    name: str
    n_dimensions: int
    numbers: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]
    density: NDArray[np.float64]
    class_shares: NDArray[np.float64]
    histogram: NDArray[np.int64]
    span: NDArray[np.float64]
    samples: NDArray[np.int64]
    activations: NDArray[np.float64]
    classifier: Classifier | None = None


def feature_cards(
    name: str,
    features: Features,
    labels: Labels,
    n_classes: int,
    scores: Mapping[str, NDArray[np.float64]],
    *,
    numbers: NDArray[np.int64] | None = None,
    n_samples: int = 9,
    n_bins: int = 24,
    classifier: Classifier | None = None,
) -> FeatureCards:
    """What there is to show of the dimensions `numbers` (all, if None) of features `[N, D]`.

    Args:
        name: of the feature set.
        features: `[N, D]`.
        labels: of the samples, `[N]`.
        n_classes: K.
        scores: of all dimensions by name, `[D]` each, such as `Monosemanticity.corrected`.
        numbers: the dimensions to show, each once.
        n_samples: how many samples to show of each; all there are if these are fewer.
        n_bins: of the histograms.
        classifier: with weights of all dimensions, `[K, D]`.

    Raises:
        InputError: shapes that do not fit, features or weights that are not finite, infinite scores, or a
            dimension that is not there.
    """
    n_rows, n_dims = features_shape(features)
    truth = torch.from_numpy(check_labels(labels, n_rows, n_classes))
    shown = np.arange(n_dims) if numbers is None else np.asarray(numbers, dtype=np.int64)
    if len(shown) == 0 or shown.min() < 0 or shown.max() >= n_dims or len(np.unique(shown)) < len(shown):
        raise InputError(f"{name}: the dimensions to show must be some of 0..{n_dims - 1}, each once")
    for of, values in scores.items():
        if values.shape != (n_dims,):
            raise InputError(f"{name}: scores {of} must be [{n_dims}], got {list(values.shape)}")
        if np.isinf(values).any():
            raise InputError(f"{name}: score {of} of dimension {np.isinf(values).argmax()} is infinite")
    if classifier is not None:
        _check_classifier(name, classifier, n_classes, n_dims)
        classifier = Classifier(classifier.title, classifier.weights[:, shown], classifier.accuracies)
    samples = top_samples(features, torch.from_numpy(shown), n_samples)
    activations = np.zeros(samples.shape)
    active = torch.zeros(len(shown), dtype=torch.int64)
    mass = torch.zeros(n_classes, len(shown), dtype=torch.float64)
    low = torch.full((len(shown),), torch.inf, dtype=torch.float64)
    high = -low
    for span, block in row_blocks(features, _BLOCK_ROWS):
        part = block.cpu()[:, shown].double()
        if not part.isfinite().all():
            row, feature = (~part.isfinite()).nonzero()[0].tolist()
            where = f"row {span.start + row}, dimension {shown[feature]}"
            raise InputError(f"{name}: {where} is not finite; look for a diverged encoder or autoencoder")
        active += (part > 0).sum(0)
        mass.index_add_(0, truth[span], part.clamp(min=0))
        there = part != 0
        low = torch.minimum(low, torch.where(there, part, torch.inf).amin(0))
        high = torch.maximum(high, torch.where(there, part, -torch.inf).amax(0))
        inside = (samples >= span.start) & (samples < span.stop)
        feature, _ = inside.nonzero()
        activations[inside] = part.numpy()[samples[inside] - span.start, feature]
    low, high = low.where(low.isfinite(), 0.0), high.where(high.isfinite(), 0.0)
    total = mass.sum(0)
    return FeatureCards(
        name=name,
        n_dimensions=n_dims,
        numbers=shown,
        scores={of: values[shown].astype(np.float64) for of, values in scores.items()},
        density=(active.double() / n_rows).numpy(),
        class_shares=(mass / total.where(total > 0, 1.0)).T.numpy(),
        histogram=_histogram(features, shown, low, high, n_bins),
        span=torch.stack([low, high], dim=1).numpy(),
        samples=samples,
        activations=activations,
        classifier=classifier,
    )


def _histogram(
    features: Features, shown: NDArray[np.int64], low: Tensor, high: Tensor, n_bins: int
) -> NDArray[np.int64]:
    """Activations that are not zero, counted in equal bins between low and high, [F, B]."""
    n_shown = len(shown)
    counts = torch.zeros(n_shown * n_bins, dtype=torch.int64)
    width = (high - low).where(high > low, 1.0)
    first_bin = n_bins * torch.arange(n_shown)
    for _, block in row_blocks(features, _BLOCK_ROWS):
        part = block.cpu()[:, shown].double()
        bins = ((part - low) / width * n_bins).long().clamp(0, n_bins - 1)
        counts += torch.bincount((first_bin + bins)[part != 0], minlength=n_shown * n_bins)
    return counts.view(n_shown, n_bins).numpy()


def _check_classifier(name: str, classifier: Classifier, n_classes: int, n_dims: int) -> None:
    if classifier.weights.shape != (n_classes, n_dims) or classifier.accuracies.shape != (n_classes,):
        raise InputError(
            f"{name}: a classifier needs weights [{n_classes}, {n_dims}] and accuracies [{n_classes}], "
            f"got {list(classifier.weights.shape)} and {list(classifier.accuracies.shape)}"
        )
    if not np.isfinite(classifier.weights).all():
        raise InputError(f"{name}: weights are not finite; the probe came apart: lower its learning rate")
