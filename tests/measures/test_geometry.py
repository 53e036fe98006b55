import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.measures import geometry


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_covariance_is_numpys() -> None:
    features = normal(5000, 4) @ normal(4, 4, seed=1) + 1e6  # several blocks, far from the origin
    expected = np.cov(features.numpy().T, bias=True)
    assert geometry.covariance(features).numpy() == pytest.approx(expected, rel=1e-9)


def test_mean_and_rms_are_those_of_the_centred_features() -> None:
    features = 3 * normal(200, 5) + 7
    mean, rms = geometry.mean_and_rms(features)
    assert mean.numpy() == pytest.approx(features.mean(dim=0).numpy())
    assert rms == pytest.approx(float((features - features.mean(dim=0)).square().mean().sqrt()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    features = normal(5000, 3)
    features[4500, 2] = bad
    with pytest.raises(InputError, match=f"{bad} in row 4500, column 2"):
        geometry.mean_and_rms(features)


def test_effective_dimension_in_closed_form() -> None:
    axes = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    assert geometry.effective_dimension(axes + 5) == pytest.approx(6)
    assert geometry.effective_dimension(normal(50, 1) @ normal(1, 8)) == pytest.approx(1)
    assert geometry.effective_dimension(torch.ones(9, 3)) == 0


def test_effective_dimension_is_the_participation_ratio_of_the_spectrum() -> None:
    features = normal(100, 7) * torch.arange(1, 8)
    eigenvalues = geometry.spectrum(features)
    assert (eigenvalues.diff() <= 0).all()
    ratio = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
    assert geometry.effective_dimension(features) == pytest.approx(ratio)


def test_sparsity_counts_what_is_not_zero() -> None:
    codes = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.0, 1.0, 0.0, 0.0]])
    assert geometry.activation_rate(codes).tolist() == [0, 1, 0, 0.5]
    assert geometry.l0(codes) == 1.5
    assert geometry.sparsity(codes) == 0.625
    assert geometry.active_dimensions(codes) == 2


def test_alignment_and_uniformity_are_those_of_loops() -> None:
    a, b = normal(30, 5), normal(30, 5, seed=1)
    unit_a, unit_b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    aligned = np.mean([float(((p - q) ** 2).sum()) for p, q in zip(unit_a, unit_b, strict=True)])
    pairs = [math.exp(-2 * float(((p - q) ** 2).sum())) for p, q in permutations(unit_a, 2)]
    assert float(geometry.alignment(a, b)) == pytest.approx(aligned)
    assert len(pairs) == 30 * 29
    assert float(geometry.uniformity(a)) == pytest.approx(math.log(np.mean(pairs)))


def test_uniformity_of_two_opposite_points() -> None:
    assert float(geometry.uniformity(torch.tensor([[2.0, 0], [-1, 0]]).double())) == pytest.approx(-8)
    with pytest.raises(InputError, match="at least two"):
        geometry.uniformity(torch.ones(1, 3))


def naive_vote(train: Tensor, labels: Tensor, query: Tensor, neighbours: int, n_classes: int) -> int:
    cosines = [float(query @ row / (query.norm() * row.norm())) for row in train]
    votes = [0.0] * n_classes
    for index in sorted(range(len(train)), key=lambda i: -cosines[i])[:neighbours]:
        votes[int(labels[index])] += math.exp(cosines[index] / 0.1)
    return votes.index(max(votes))


def test_knn_accuracy_is_that_of_a_loop() -> None:
    train, test = normal(60, 4), normal(40, 4, seed=1)
    labels, truth = (train[:, 0] > 0).long() + (train[:, 1] > 0), (test[:, 0] > 0).long() + (test[:, 1] > 0)
    right = [naive_vote(train, labels, x, 5, 3) == int(y) for x, y in zip(test, truth, strict=True)]
    accuracy = geometry.knn_accuracy(train, labels, test, truth, 3, neighbours=5)
    assert accuracy == pytest.approx(np.mean(right))
    assert 0.5 < accuracy < 1


def test_knn_refuses_what_does_not_fit() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    with pytest.raises(InputError, match="3 columns, test features 2"):
        geometry.knn_accuracy(normal(4, 3), labels, normal(4, 2), labels, 2)
    with pytest.raises(InputError, match="4 training rows, got 9"):
        geometry.knn_accuracy(normal(4, 3), labels, normal(4, 3), labels, 2, neighbours=9)
