"""Which dimensions a trained probe leans on, what activates them, and whether that goes with being right.

Section 4.1 and Figure 4 of the paper: for a class the dimension with the largest weight and the samples that
activate it most; and, over samples, how monosemantic the most active dimension is where the probe is right
and where it is wrong. Scores of dimensions come from `monosem.measures`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor

from monosem.core.errors import InputError
from monosem.measures.blocks import Features, Labels, check_labels, features_shape, row_blocks


@dataclass(frozen=True)
class SalientClass:
    """A class as a probe sees it.

    accuracy: of the probe on this class. dimension: the one with the largest weight for it. weight: that
    weight. samples: those that activate the dimension most, the most active first; -1 where fewer do.
    """

    label: int
    accuracy: float
    dimension: int
    weight: float
    samples: NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """Scores of each sample's most active dimension, where the probe is right and where it is wrong.

    right, wrong: the scores; samples whose dimension has none are left out. superiority: the probability that
    a sample the probe got right has the higher score, ties counting half; 0.5 is no difference. p: of Mann
    and Whitney's test over samples, two-sided; it says nothing of another encoder. Both are nan where a side
    has no samples.
    """

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    superiority: float
    p: float

    @property
    def difference(self) -> float:
        """Mean score where right minus mean score where wrong; nan where a side has no samples."""
        if not (len(self.right) and len(self.wrong)):
            return float("nan")
        return float(self.right.mean() - self.wrong.mean())


def salient_classes(
    weights: Tensor,
    features: Features,
    labels: Labels,
    predicted: Tensor,
    *,
    n_classes: int,
    n_samples: int = 9,
) -> list[SalientClass]:
    """Every class with its most salient dimension, from the most accurate one down.

    Args:
        weights: of a linear probe, `[K, D]`.
        features: `[N, D]`, on the scale that the probe saw.
        labels: the true ones, `[N]`.
        predicted: by the probe, `[N]`.
        n_classes: K.
        n_samples: how many samples to show; all there are if these are fewer.

    Raises:
        InputError: weights that do not fit or are not finite, or labels that do not fit.
    """
    n_rows, n_dims = features_shape(features)
    truth = check_labels(labels, n_rows, n_classes)
    if tuple(weights.shape) != (n_classes, n_dims):
        raise InputError(f"weights must be [{n_classes}, {n_dims}], got {tuple(weights.shape)}")
    if not weights.isfinite().all():
        raise InputError("weights are not finite; the probe came apart: lower its learning rate")
    told = check_labels(predicted, n_rows, n_classes)
    dimensions = weights.argmax(1).cpu()
    shown = top_samples(features, dimensions, n_samples)
    accuracies = class_accuracies(truth, told, n_classes)
    order = np.argsort(-np.nan_to_num(accuracies, nan=-1.0), kind="stable")
    return [
        SalientClass(
            int(k), float(accuracies[k]), int(dimensions[k]), float(weights[k, dimensions[k]]), shown[k]
        )
        for k in order
    ]


def class_accuracies(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int
) -> NDArray[np.float64]:
    """Share of each class's samples that are predicted to be of it, `[K]`; nan where it has no samples."""
    right = np.bincount(truth[predicted == truth], minlength=n_classes)
    sizes = np.bincount(truth, minlength=n_classes)
    found: NDArray[np.float64] = np.divide(right, sizes, out=np.full(n_classes, np.nan), where=sizes > 0)
    return found


def top_samples(features: Features, dimensions: Tensor, n: int) -> NDArray[np.int64]:
    """The n samples that activate each of some dimensions most, the most active first: `[M, n]`.

    -1 stands where fewer have a positive activation. Equally active ones come in their order; all N samples
    where n is more.
    """
    values, rows = torch.empty(len(dimensions), 0), torch.empty(len(dimensions), 0, dtype=torch.int64)
    for span, block in row_blocks(features):
        part = block.cpu()[:, dimensions].T
        values = torch.cat([values.to(part.dtype), part], dim=1)
        rows = torch.cat([rows, torch.arange(span.start, span.stop).expand(len(dimensions), -1)], dim=1)
        best = values.argsort(dim=1, descending=True, stable=True)[:, :n]
        values, rows = values.gather(1, best), rows.gather(1, best)
    return torch.where(values > 0, rows, -1).numpy()


def most_active(features: Features) -> NDArray[np.int64]:
    """Each sample's dimension with the largest activation, `[N]`; the first of equals."""
    return torch.cat([block.cpu().argmax(1) for _, block in row_blocks(features)]).numpy()


def scores_by_outcome(features: Features, scores: NDArray[np.float64], right: Tensor) -> Outcomes:
    """How monosemantic the most active dimension of samples is, by whether the probe got them right.

    Args:
        features: `[N, D]`.
        scores: of the dimensions, `[D]`, such as `Monosemanticity.corrected`; nan where not scored.
        right: whether the probe was right, `[N]` bool.

    Raises:
        InputError: shapes that do not fit.
    """
    n_rows, n_dims = features_shape(features)
    if scores.shape != (n_dims,) or tuple(right.shape) != (n_rows,):
        raise InputError(
            f"features [{n_rows}, {n_dims}] need scores [{n_dims}] and right [{n_rows}], "
            f"got {list(scores.shape)} and {list(right.shape)}"
        )
    of_samples = scores[most_active(features)]
    is_right = right.cpu().numpy().astype(bool)
    scored = np.isfinite(of_samples)
    one, other = of_samples[scored & is_right], of_samples[scored & ~is_right]
    if not (len(one) and len(other)):
        return Outcomes(one, other, float("nan"), float("nan"))
    test = mannwhitneyu(one, other)
    return Outcomes(one, other, float(test.statistic) / (len(one) * len(other)), float(test.pvalue))
