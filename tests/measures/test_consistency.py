from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.data.feature_set import FeatureSet
from monosem.measures.consistency import (
    Monosemanticity,
    chance_share,
    matched_monosemanticity,
    native_monosemanticity,
)


def random_case(n_rows: int, n_dims: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features = random.standard_normal((n_rows, n_dims)).astype(np.float32)
    return features, random.integers(0, n_classes, n_rows)


def naive_share(members: np.ndarray) -> float:
    return Counter(members.tolist()).most_common(1)[0][1] / len(members)


def test_native_scores_are_those_of_a_loop_over_dimensions() -> None:
    features, labels = random_case(n_rows=5000, n_dims=6, n_classes=7)  # several blocks of rows
    features[:, 5] = -1.0
    scores = native_monosemanticity(features, labels, 7, threshold=0.5, min_support=10)
    for column in range(5):
        members = labels[features[:, column] > 0.5]
        assert scores.support[column] == len(members)
        assert scores.share[column] == pytest.approx(naive_share(members), rel=1e-12)
    assert scores.support[5] == 0
    assert np.isnan(scores.share[5])
    assert scores.n_scored == 5


def test_matched_scores_are_those_of_a_loop_over_dimensions() -> None:
    features, labels = random_case(n_rows=5000, n_dims=6, n_classes=7)
    scores = matched_monosemanticity(features, labels, 7)
    q = 5000 // 14
    for column in range(6):
        members = labels[np.argsort(-features[:, column])[:q]]
        assert scores.share[column] == pytest.approx(naive_share(members), rel=1e-12)
    assert (scores.support == q).all()


def test_one_dimension_a_class_is_perfectly_monosemantic() -> None:
    labels = np.repeat(np.arange(4), 25)
    one_hot = np.eye(4)[labels]
    for scores in (
        native_monosemanticity(one_hot, labels, 4),
        matched_monosemanticity(one_hot, labels, 4, q=20),
    ):
        assert scores.share == pytest.approx(1.0)
        assert scores.corrected == pytest.approx(1.0)


def test_a_dense_set_scores_natively_the_largest_class() -> None:
    labels = np.array([0] * 60 + [1] * 40)
    scores = native_monosemanticity(np.ones((100, 3)), labels, 2)
    assert scores.share == pytest.approx(0.6)
    assert scores.corrected == pytest.approx(0.0)


def test_chance_is_the_mean_over_permutations_at_every_support() -> None:
    labels = np.random.default_rng(3).integers(0, 5, 60)
    chance = chance_share(labels, 5, permutations=2000)
    assert np.isnan(chance[0])
    assert chance[1] == 1.0
    assert chance[60] == pytest.approx(naive_share(labels))
    random = np.random.default_rng(4)
    for support in (2, 7, 30):
        naive = np.mean([naive_share(random.choice(labels, support, replace=False)) for _ in range(2000)])
        assert chance[support] == pytest.approx(naive, abs=0.015)


def test_chance_of_two_samples_in_closed_form() -> None:
    labels = np.repeat(np.arange(10), 30)
    same_class = 29 / 299
    assert chance_share(labels, 10, permutations=4000)[2] == pytest.approx(0.5 + 0.5 * same_class, abs=0.01)


def test_features_without_information_score_chance() -> None:
    features, labels = random_case(n_rows=3000, n_dims=400, n_classes=10)
    for scores in (
        native_monosemanticity(features, labels, 10, threshold=1.0),
        matched_monosemanticity(features, labels, 10),
    ):
        assert scores.mean(scores.corrected, weighted=False) == pytest.approx(0.0, abs=0.005)


def test_ties_are_worth_chance_whatever_the_order_of_the_samples() -> None:
    labels = np.repeat(np.arange(10), 100)  # sorted by class: the first rows would all be of one
    sparse = np.zeros((1000, 300))
    sparse[500, :] = 1.0
    scores = matched_monosemanticity(sparse, labels, 10, q=50)
    assert scores.mean(scores.corrected, weighted=False) == pytest.approx(0.0, abs=0.01)


def test_constant_dimensions_are_not_scored() -> None:
    features, labels = random_case(n_rows=100, n_dims=3, n_classes=2)
    features[:, 1] = 4.0
    scores = matched_monosemanticity(features, labels, 2)
    assert np.isnan(scores.share).tolist() == [False, True, False]
    assert scores.n_scored == 2


@settings(deadline=None, max_examples=50)
@given(
    features=arrays(np.float32, (12, 3), elements=st.integers(-2, 2).map(float)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
    q=st.integers(2, 12),
)
def test_matched_takes_what_lies_above_and_fills_up_from_the_ties(
    features: np.ndarray, labels: np.ndarray, q: int
) -> None:
    scores = matched_monosemanticity(features, labels, 3, q=q)
    for column, values in enumerate(features.T):
        if np.ptp(values) == 0:
            assert np.isnan(scores.share[column])
            continue
        limit = np.sort(values)[-q]
        sure = np.bincount(labels[values > limit], minlength=3)
        tied = np.bincount(labels[values == limit], minlength=3)
        free = q - sure.sum()
        largest = scores.share[column] * q
        assert scores.support[column] == q
        assert sure.max() - 1e-9 <= largest <= (sure + np.minimum(tied, free)).max() + 1e-9


def test_a_feature_set_scores_like_its_array() -> None:
    features, labels = random_case(n_rows=300, n_dims=4, n_classes=3)
    stored = FeatureSet.from_arrays(features, labels)
    for score in (native_monosemanticity, matched_monosemanticity):
        assert score(stored, labels, 3).share.tolist() == score(features, labels, 3).share.tolist()


def test_means_weigh_by_support_or_not_and_leave_out_what_was_not_scored() -> None:
    scores = Monosemanticity(
        support=np.array([10, 30, 1]),
        share=np.array([1.0, 0.6, np.nan]),
        chance=np.array([0.5, 0.2, np.nan]),
    )
    assert scores.summary() == pytest.approx(
        {
            "n_scored": 2,
            "share": 0.8,
            "share_weighted": 0.7,
            "chance": 0.35,
            "chance_weighted": 0.275,
            "corrected": 0.75,
            "corrected_weighted": 0.625,
        }
    )


def test_nothing_scored_gives_nan() -> None:
    scores = native_monosemanticity(np.zeros((50, 2)), np.arange(50) % 2, 2)
    assert scores.n_scored == 0
    assert np.isnan(scores.summary()["corrected"])


def test_impossible_questions_are_refused() -> None:
    features, labels = random_case(n_rows=20, n_dims=2, n_classes=2)
    with pytest.raises(InputError, match="min_support"):
        native_monosemanticity(features, labels, 2, min_support=1)
    for q in (1, 21):
        with pytest.raises(InputError, match="q must lie"):
            matched_monosemanticity(features, labels, 2, q=q)


def naive_purity(members: np.ndarray, n_classes: int) -> float:
    counts = np.array(list(Counter(members.tolist()).values()))
    shares = counts / counts.sum()
    return 1 + float((shares * np.log(shares)).sum()) / np.log(n_classes)


def test_scores_by_entropy_are_those_of_a_loop() -> None:
    features, labels = random_case(n_rows=5000, n_dims=6, n_classes=7)
    features[:, 0] += 2 * (labels == 3)
    native = native_monosemanticity(features, labels, 7, threshold=0.5, by="entropy")
    matched = matched_monosemanticity(features, labels, 7, by="entropy")
    for column in range(6):
        above = labels[features[:, column] > 0.5]
        assert native.share[column] == pytest.approx(naive_purity(above, 7), abs=1e-12)
        top = labels[np.argsort(-features[:, column])[: 5000 // 14]]
        assert matched.share[column] == pytest.approx(naive_purity(top, 7), abs=1e-12)
    assert matched.corrected[0] > 0.3
    assert np.abs(matched.corrected[1:]).max() < 0.02
    assert (native.chance > 0).all()


def test_chance_by_entropy_is_the_mean_over_permutations() -> None:
    labels = np.random.default_rng(3).integers(0, 5, 60)
    chance = chance_share(labels, 5, by="entropy", permutations=1000)
    assert np.isnan(chance[0])
    assert chance[1] == 1.0
    assert chance[60] == pytest.approx(naive_purity(labels, 5))
    random = np.random.default_rng(4)
    for support in (2, 7, 30):
        draws = [naive_purity(random.choice(labels, support, replace=False), 5) for _ in range(1000)]
        assert chance[support] == pytest.approx(np.mean(draws), abs=0.015)


@pytest.mark.parametrize("by", ["share", "entropy"])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_sparse_rows_score_as_dense_ones(by, shift: float) -> None:
    """Native and matched, with negative values, ties at zero, full columns, and columns held twice."""
    draw = np.random.default_rng(5)
    n_rows, dim = 400, 30
    indices = draw.integers(0, dim - 1, (n_rows, 5))
    indices[:, 0] = 3  # held by every row
    values = draw.standard_normal((n_rows, 5)) + shift
    codes = Codes(torch.from_numpy(indices).int(), torch.from_numpy(values), dim)
    labels = draw.integers(0, 4, n_rows)
    for threshold in (0.0, 0.5, -0.5):
        sparse, dense = (
            native_monosemanticity(table, labels, 4, threshold=threshold, by=by)
            for table in (codes, codes[:])
        )
        np.testing.assert_array_equal(sparse.support, dense.support)
        np.testing.assert_allclose(sparse.share, dense.share)
        np.testing.assert_allclose(sparse.chance, dense.chance)
    for q in (2, 20, 50, 380, 400):
        sparse, dense = (matched_monosemanticity(table, labels, 4, q=q, by=by) for table in (codes, codes[:]))
        np.testing.assert_array_equal(sparse.support, dense.support)
        np.testing.assert_allclose(sparse.share, dense.share)
        # A column that is always zero: all of its samples are tied, unless all of them are asked for.
        assert np.isnan(sparse.share[dim - 1]) == (q < n_rows)
