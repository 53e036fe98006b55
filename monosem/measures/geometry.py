"""The shape of a feature set: how many dimensions it uses, how sparse it is, what lies near what."""

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.measures.blocks import Features, Labels, check_labels, features_shape, row_blocks

_PAIR_ROWS = 1024


def mean_and_rms(features: Features) -> tuple[Tensor, float]:
    """Mean of each column `[D]` and root mean square of all entries after centring, in float64.

    Raises:
        InputError: NaN or infinite features (row and column named), or features beyond what float32 holds.
    """
    n_rows, n_dims = features_shape(features)
    mean = torch.zeros(n_dims, dtype=torch.float64)
    for span, block in row_blocks(features):
        sums = block.cpu().double().sum(dim=0)
        if not torch.isfinite(sums).all():
            _refuse_non_finite(block, span.start)
        mean += sums / n_rows
    # A second pass, because E[x^2] - mean^2 cancels when the mean is large beside the spread.
    squares = sum(float((block.cpu().double() - mean).square().sum()) for _, block in row_blocks(features))
    rms = (squares / (n_rows * n_dims)) ** 0.5
    if (size := max(rms, float(mean.abs().max()))) > torch.finfo(torch.float32).max:
        raise InputError(
            f"features are too large: about {size:.0e}, which float32 does not hold; scale them down"
        )
    return mean, rms


def covariance(features: Features) -> Tensor:
    """Covariance of the columns `[D, D]` in float64, divided by N."""
    n_rows, n_dims = features_shape(features)
    mean, _ = mean_and_rms(features)
    total = torch.zeros(n_dims, n_dims, dtype=torch.float64)
    for _, block in row_blocks(features):
        centred = block.cpu().double() - mean
        total.addmm_(centred.T, centred)
    return total / n_rows


def spectrum(features: Features) -> Tensor:
    """Eigenvalues of the covariance `[D]`, largest first, in float64 and never negative."""
    ascending: Tensor = torch.linalg.eigvalsh(covariance(features))
    return ascending.flip(0).clamp(min=0)


def effective_dimension(features: Features) -> float:
    """Participation ratio of the covariance spectrum, (sum l)^2 / sum l^2: 1 to D, and 0 without spread.

    From trace and Frobenius norm, so no eigenvalue is computed.
    """
    cov = covariance(features)
    squared_norm = float(cov.square().sum())
    return float(cov.trace()) ** 2 / squared_norm if squared_norm > 0 else 0.0


def activation_rate(features: Features) -> Tensor:
    """Share of the rows in which each column is not zero `[D]`, in float64."""
    n_rows, n_dims = features_shape(features)
    counts = torch.zeros(n_dims, dtype=torch.int64)
    for _, block in row_blocks(features):
        counts += block.cpu().count_nonzero(dim=0)
    return counts.double() / n_rows


def l0(features: Features) -> float:
    """Mean number of non-zero entries of a row."""
    return float(activation_rate(features).sum())


def sparsity(features: Features) -> float:
    """Share of entries that are zero."""
    return 1.0 - float(activation_rate(features).mean())


def active_dimensions(features: Features) -> int:
    """Number of columns that are not zero in at least one row; the others are dead."""
    return int((activation_rate(features) > 0).sum())


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the L2-normalised rows of two views `[N, D]` (Wang & Isola 2020, alpha 2)."""
    unit_first = torch.nn.functional.normalize(first, dim=1)
    unit_second = torch.nn.functional.normalize(second, dim=1)
    return (unit_first - unit_second).square().sum(dim=1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Log of the mean of exp(-2 |x - y|^2) over pairs of L2-normalised rows `[N, D]` (Wang & Isola 2020).

    Raises:
        InputError: fewer than two rows.
    """
    n_rows = len(features)
    if n_rows < 2:
        raise InputError("uniformity is over pairs of rows and needs at least two")
    unit = torch.nn.functional.normalize(features, dim=1)
    # |x - y|^2 = 2 - 2 x.y; a row with itself gives exp(0) = 1 and is taken out again.
    potential = unit.new_zeros(())
    for start in range(0, n_rows, _PAIR_ROWS):
        potential = potential + torch.exp(4 * (unit[start : start + _PAIR_ROWS] @ unit.T) - 4).sum()
    return torch.log((potential - n_rows) / (n_rows * (n_rows - 1)))


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    n_classes: int,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> float:
    """Accuracy of the nearest neighbours by cosine, each voting with exp(cosine / temperature).

    The weighted vote of Wu et al. 2018. `train` `[N, D]` and `test` `[M, D]` are read in blocks.

    Raises:
        InputError: labels that do not fit, another number of columns, or more neighbours than rows.
    """
    n_train, n_dims = features_shape(train)
    n_test, test_dims = features_shape(test)
    if n_dims != test_dims:
        raise InputError(f"train features have {n_dims} columns, test features {test_dims}")
    if not 1 <= neighbours <= n_train:
        raise InputError(f"neighbours must lie between 1 and the {n_train} training rows, got {neighbours}")
    known = torch.from_numpy(check_labels(train_labels, n_train, n_classes))
    truth = torch.from_numpy(check_labels(test_labels, n_test, n_classes))
    correct = 0
    for span, block in row_blocks(test, _PAIR_ROWS):
        unit = torch.nn.functional.normalize(block, dim=1)
        known, truth = known.to(unit.device), truth.to(unit.device)
        cosines = unit.new_empty(len(unit), n_train)
        for columns, part in row_blocks(train):
            bank = torch.nn.functional.normalize(part, dim=1).to(unit.device)
            torch.mm(unit, bank.T, out=cosines[:, columns])
        cosine, nearest = cosines.topk(neighbours, dim=1)
        votes = cosine.new_zeros(len(block), n_classes)
        votes.scatter_add_(1, known[nearest], torch.exp((cosine - 1) / temperature))
        correct += int((votes.argmax(dim=1) == truth[span]).sum())
    return correct / n_test


def _refuse_non_finite(block: Tensor, first_row: int) -> None:
    bad = torch.nonzero(~torch.isfinite(block))
    row, column = bad[0].tolist()
    raise InputError(f"features hold {block[row, column]} in row {first_row + row}, column {column}")
