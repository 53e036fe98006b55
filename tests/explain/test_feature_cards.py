"""Cards against loops over samples, for dense and sparse features."""

import numpy as np
import pytest
import torch

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.explain.feature_cards import Classifier, feature_cards

N, D, K = 2500, 12, 4


def case() -> tuple[Codes, torch.Tensor]:
    """Sparse codes, some negative, over more rows than one block has; dimension 11 is never active."""
    draw = np.random.default_rng(0)
    columns = np.stack([draw.permutation(D - 1)[:3] for _ in range(N)])
    codes = Codes(torch.from_numpy(columns).int(), torch.from_numpy(draw.normal(1, 1, (N, 3))).float(), D)
    return codes, torch.from_numpy(draw.integers(0, K, N))


@pytest.mark.parametrize("sparse", [True, False])
def test_cards_are_those_of_loops(sparse: bool) -> None:
    codes, labels = case()
    dense, truth = codes[:].numpy().astype(np.float64), labels.numpy()
    numbers = np.array([7, 0, 11, 3])
    scores = {"matched": np.linspace(0, 1, D)}
    cards = feature_cards(
        "sae", codes if sparse else codes[:], labels, K, scores, numbers=numbers, n_samples=6, n_bins=5
    )
    assert cards.n_dimensions == D
    assert cards.scores["matched"].tolist() == scores["matched"][numbers].tolist()
    for card, number in enumerate(numbers):
        column = dense[:, number]
        assert cards.density[card] == pytest.approx((column > 0).mean())
        mass = np.array([np.clip(column[truth == k], 0, None).sum() for k in range(K)])
        expected = mass / mass.sum() if mass.sum() else np.zeros(K)
        np.testing.assert_allclose(cards.class_shares[card], expected, rtol=1e-5)
        order = sorted(np.flatnonzero(column > 0), key=lambda i: (-column[i], i))[:6]
        absent = [-1] * (6 - len(order))
        assert cards.samples[card].tolist() == [*order, *absent]
        np.testing.assert_allclose(cards.activations[card], [*column[order], *np.zeros(len(absent))])
        there = column[column != 0]
        if len(there):
            counts, edges = np.histogram(there, bins=5)
            assert cards.histogram[card].sum() == len(there)
            np.testing.assert_allclose(cards.span[card], edges[[0, -1]], rtol=1e-5)
            assert np.abs(cards.histogram[card] - counts).sum() <= 2  # a value on the edge of two bins
        else:
            assert cards.histogram[card].sum() == 0
            assert cards.span[card].tolist() == [0, 0]


def test_one_value_for_all_samples_is_one_bar() -> None:
    cards = feature_cards("dense", torch.ones(20, 1), torch.arange(20) % 2, 2, {}, n_bins=4)
    assert cards.histogram.tolist() == [[20, 0, 0, 0]]
    assert cards.span.tolist() == [[1, 1]]


def test_a_classifier_keeps_the_weights_of_the_dimensions_shown() -> None:
    codes, labels = case()
    weights = np.arange(K * D, dtype=float).reshape(K, D)
    classifier = Classifier("a probe", weights, np.full(K, 0.5))
    cards = feature_cards("sae", codes, labels, K, {}, numbers=np.array([5, 2]), classifier=classifier)
    assert cards.classifier is not None
    assert cards.classifier.weights.tolist() == weights[:, [5, 2]].tolist()


def test_what_does_not_fit() -> None:
    codes, labels = case()
    for numbers in ([], [0, 0], [12], [-1]):
        with pytest.raises(InputError, match=r"some of 0\.\.11, each once"):
            feature_cards("sae", codes, labels, K, {}, numbers=np.array(numbers, dtype=int))
    with pytest.raises(InputError, match=r"scores matched must be \[12\], got \[3\]"):
        feature_cards("sae", codes, labels, K, {"matched": np.ones(3)})
    with pytest.raises(InputError, match=r"weights \[4, 12\]"):
        feature_cards("sae", codes, labels, K, {}, classifier=Classifier("", np.ones((4, 3)), np.ones(4)))
    nan = Classifier("", np.full((K, D), np.nan), np.ones(K))
    with pytest.raises(InputError, match="weights are not finite"):
        feature_cards("sae", codes, labels, K, {}, classifier=nan)
    broken = codes[:]
    broken[1500, 7] = torch.inf
    with pytest.raises(InputError, match="row 1500, dimension 7 is not finite"):
        feature_cards("dense", broken, labels, K, {}, numbers=np.array([3, 7]))
    with pytest.raises(InputError, match="score native of dimension 2 is infinite"):
        feature_cards("sae", codes, labels, K, {"native": np.where(np.arange(D) == 2, np.inf, 0)})
