"""The label-free score against the double sum that defines it."""

import numpy as np
import pytest
import torch

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.measures.similarity import similarity_monosemanticity


def naive(features: np.ndarray, embeddings: np.ndarray) -> list[float]:
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = []
    for a in features.T.astype(float):
        a = (a - a.min()) / (a.max() - a.min()) if a.max() > a.min() else np.full(len(a), np.nan)
        total = weight = 0.0
        for n in range(len(a)):
            for m in range(len(a)):
                if m != n:
                    total += a[n] * a[m] * (directions[n] @ directions[m])
                    weight += a[n] * a[m]
        scores.append(total / weight if weight else np.nan)
    return scores


def case(n: int = 40, dims: int = 7) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((n, dims)) + 3
    features[:, 5] = 2.0  # constant
    features[:, 6] = 0
    features[3, 6] = 1.0  # one sample alone
    return features, draw.standard_normal((n, 5)) + 0.5


def test_the_score_is_the_double_sum() -> None:
    features, embeddings = case()
    found = similarity_monosemanticity(features, embeddings)
    np.testing.assert_allclose(found.score, naive(features, embeddings), atol=1e-9)
    assert np.isnan(found.score[5:]).all()


def test_chance_is_the_mean_similarity_of_all_pairs() -> None:
    _, embeddings = case()
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similar = directions @ directions.T
    expected = similar[~np.eye(40, dtype=bool)].mean()
    assert similarity_monosemanticity(embeddings, embeddings).chance == pytest.approx(expected)


def test_sparse_rows_give_what_dense_ones_give() -> None:
    draw = np.random.default_rng(2)
    indices = torch.from_numpy(draw.integers(0, 12, (50, 4))).int()  # with columns that a row holds twice
    codes = Codes(indices, torch.from_numpy(draw.standard_normal((50, 4)) + 0.5), 13)
    embeddings = draw.standard_normal((50, 6))
    sparse = similarity_monosemanticity(codes, embeddings).score
    np.testing.assert_allclose(sparse, naive(codes[:].numpy(), embeddings), atol=1e-9)
    assert np.isnan(sparse[12])
    full = Codes(torch.zeros(50, 1).int(), torch.from_numpy(draw.random((50, 1)) + 1), 1)
    np.testing.assert_allclose(
        similarity_monosemanticity(full, embeddings).score, naive(full[:].numpy(), embeddings), atol=1e-9
    )


def test_a_dimension_of_like_samples_scores_high_and_a_mixture_does_not() -> None:
    kinds = np.repeat(np.eye(4), 10, axis=0)
    features = np.stack([kinds[:, 0], kinds[:, 0] + kinds[:, 1], np.tile([1.0, 0.0], 20)], axis=1)
    found = similarity_monosemanticity(features, kinds)
    assert found.score[0] == pytest.approx(1)
    assert found.score[1] == pytest.approx(9 / 19)
    assert found.chance == pytest.approx(9 / 39)


def test_embeddings_that_do_not_fit() -> None:
    features, embeddings = case()
    with pytest.raises(InputError, match="40 rows of features need as many embeddings, got 39"):
        similarity_monosemanticity(features, embeddings[:-1])
    embeddings[7] = 0
    with pytest.raises(InputError, match="row 7 is zero or not finite"):
        similarity_monosemanticity(features, embeddings)
