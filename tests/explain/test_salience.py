"""Salient dimensions and samples against loops, and outcomes where the answer is planted."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.explain.salience import most_active, salient_classes, scores_by_outcome, top_samples


def case(n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    """More rows than one block has, with ties."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randint(0, 50, (n, 6), generator=draw).float()
    return features, torch.randint(4, (n,), generator=draw)


def test_top_samples_are_those_of_a_sort() -> None:
    features, _ = case()
    dimensions = torch.tensor([4, 0, 4])
    found = top_samples(features, dimensions, 70)
    for row, dimension in zip(found, dimensions.tolist(), strict=True):
        expected = sorted(range(len(features)), key=lambda i: (-float(features[i, dimension]), i))[:70]
        assert row.tolist() == expected
    assert top_samples(features[:5], dimensions, 70).shape == (3, 5)


def test_samples_that_do_not_activate_a_dimension_are_none_of_its_top_samples() -> None:
    features = torch.tensor([[0.0, -1.0], [2.0, -2.0], [0.0, 0.0], [3.0, -1.0]])
    assert top_samples(features, torch.arange(2), 3).tolist() == [[3, 1, -1], [-1, -1, -1]]


def test_sparse_rows_have_the_same_samples_and_dimensions() -> None:
    draw = np.random.default_rng(1)
    codes = Codes(
        torch.from_numpy(draw.integers(0, 9, (200, 3))).int(), torch.from_numpy(draw.random((200, 3))), 9
    )
    dense = codes[:]
    np.testing.assert_array_equal(
        top_samples(codes, torch.arange(9), 20), top_samples(dense, torch.arange(9), 20)
    )
    np.testing.assert_array_equal(most_active(codes), dense.argmax(1).numpy())


def test_classes_come_from_the_most_accurate_down_with_their_dimension() -> None:
    features, labels = case()
    predicted = labels.clone()
    predicted[labels == 2] = 1  # never right
    half = (labels == 1).nonzero()[::2, 0]
    predicted[half] = 3
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    found = salient_classes(weights, features, labels, predicted, n_classes=4, n_samples=5)
    assert [one.label for one in found] == [0, 3, 1, 2]
    assert [one.accuracy for one in found] == pytest.approx([1, 1, 0.5, 0], abs=0.01)
    for one in found:
        row = weights[one.label]
        assert one.weight == float(row.max())
        assert float(row[one.dimension]) == one.weight
        assert one.samples.tolist() == top_samples(features, torch.tensor([one.dimension]), 5)[0].tolist()


def test_a_class_without_samples_comes_last() -> None:
    features, labels = case(40)
    found = salient_classes(torch.ones(6, 6), features, labels, labels, n_classes=6)
    assert np.isnan([one.accuracy for one in found]).tolist() == [False] * 4 + [True] * 2


def test_scores_by_outcome_are_those_of_a_loop() -> None:
    features, _ = case(300)
    scores = np.array([0.1, 0.9, np.nan, 0.4, 0.4, 0.7])
    right = torch.rand(300, generator=torch.Generator().manual_seed(4)) < 0.6
    found = scores_by_outcome(features, scores, right)
    one, other = [], []
    for sample, is_right in zip(features, right.tolist(), strict=True):
        score = scores[int(sample.argmax())]
        if not np.isnan(score):
            (one if is_right else other).append(score)
    assert sorted(found.right) == sorted(one)
    assert sorted(found.wrong) == sorted(other)
    ahead = [(a > b) + 0.5 * (a == b) for a in one for b in other]
    assert found.superiority == pytest.approx(np.mean(ahead))
    assert found.p == pytest.approx(mannwhitneyu(one, other).pvalue)
    assert found.difference == pytest.approx(np.mean(one) - np.mean(other))


def test_a_planted_difference_is_seen() -> None:
    features = torch.eye(2).repeat(100, 1)
    right = torch.tensor([True, False]).repeat(100)
    found = scores_by_outcome(features, np.array([0.8, 0.2]), right)
    assert (found.superiority, found.difference) == (1, pytest.approx(0.6))
    assert found.p < 1e-20


def test_what_does_not_fit() -> None:
    features, labels = case(30)
    with pytest.raises(InputError, match=r"weights must be \[4, 6\], got \(4, 5\)"):
        salient_classes(torch.ones(4, 5), features, labels, labels, n_classes=4)
    weights = torch.ones(4, 6)
    weights[1, 2] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        salient_classes(weights, features, labels, labels, n_classes=4)
    with pytest.raises(InputError, match=r"need scores \[6\] and right \[30\]"):
        scores_by_outcome(features, np.ones(5), torch.ones(30))


def test_a_probe_that_is_never_wrong_leaves_nothing_to_compare() -> None:
    features, _ = case(30)
    found = scores_by_outcome(features, np.ones(6), torch.ones(30))
    assert (len(found.right), len(found.wrong)) == (30, 0)
    assert np.isnan([found.superiority, found.p, found.difference]).all()
