"""Latents that tell concepts: chosen as by a loop over all thresholds, and right where truth is planted."""

import numpy as np
import pytest
import torch

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.measures.concept_latents import _best_thresholds, concept_latents


def codes_of(n_rows: int = 300, dim: int = 12) -> tuple[Codes, np.ndarray]:
    """Sparse codes with equal values among them, in which class 1 has a latent of its own."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, n_rows)
    indices = draw.integers(0, dim - 2, (n_rows, 4))
    values = draw.integers(1, 6, (n_rows, 4)) / 4
    indices[:, 0], values[:, 0] = dim - 2, np.where(labels == 1, 1.0, 0.0)
    return Codes(torch.from_numpy(indices).int(), torch.from_numpy(values), dim), labels


@pytest.mark.parametrize("sparse", [True, False])
def test_thresholds_are_the_best_of_all(sparse: bool) -> None:
    codes, labels = codes_of()
    table = codes[:].numpy()
    choosing = np.arange(len(labels)) % 2 == 0
    gains, thresholds = _best_thresholds(codes if sparse else table, labels, choosing, 3)
    x, y = table[choosing], labels[choosing]
    for concept in range(3):
        for latent in range(12):
            tried = np.unique(x[:, latent])
            tried = tried[tried > 0] if sparse else tried
            best = max(
                (
                    (x[y == concept, latent] >= t).mean() - (x[y != concept, latent] >= t).mean()
                    for t in tried
                ),
                default=0.0,
            )
            assert gains[concept, latent] == pytest.approx(max(best, 0), abs=1e-12)
            if best > 0:
                t = thresholds[concept, latent]
                found = (x[y == concept, latent] >= t).mean() - (x[y != concept, latent] >= t).mean()
                assert found == pytest.approx(best, abs=1e-12)


def test_a_latent_of_its_own_needs_no_other() -> None:
    codes, labels = codes_of()
    found = concept_latents(codes, labels, 3, n=3)
    assert found.latents[1, 0] == 10
    assert found.alone[1] == 1
    assert found.without[1] < 0.65  # the others know nothing
    assert found.together[1] == pytest.approx(1)
    assert found.local[1] > 0.7
    assert found.overall[1] == pytest.approx(1)
    assert found.score[1] > 0.85
    # Class 0 has no latent: a guess, and a little chance of choosing.
    assert found.alone[0] < 0.65
    assert found.score[0] < 0.45


def test_a_concept_spread_over_two_latents_is_told_by_both() -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 2000)
    one = (labels == 1) & (draw.random(2000) < 0.5)
    table = np.stack([one, (labels == 1) & ~one, draw.random(2000)], axis=1).astype(float)
    found = concept_latents(table, labels, 2, n=2)
    assert set(found.latents[1]) == {0, 1}
    assert found.alone[1] == pytest.approx(0.75, abs=0.03)
    assert found.without[1] == pytest.approx(0.75, abs=0.03)
    assert found.together[1, 1] == pytest.approx(1)
    assert found.local[1] == pytest.approx(0, abs=0.06)
    assert found.overall[1] == pytest.approx(1 - 0.125, abs=0.03)


def test_luck_of_choosing_among_many_is_not_scored() -> None:
    draw = np.random.default_rng(2)
    found = concept_latents(draw.standard_normal((400, 300)), draw.integers(0, 4, 400), 4)
    assert np.abs(found.alone - 0.5).max() < 0.12


def test_sparse_and_dense_rows_agree() -> None:
    codes, labels = codes_of()
    sparse, dense = (concept_latents(table, labels, 3, n=2) for table in (codes, codes[:].clamp_min(0)))
    np.testing.assert_allclose(sparse.alone[1], dense.alone[1])
    np.testing.assert_allclose(sparse.together[1], dense.together[1])


def test_what_cannot_be_asked() -> None:
    codes, labels = codes_of()
    with pytest.raises(InputError, match="12 dimensions are fewer than the 13 latents"):
        concept_latents(codes, labels, 3, n=13)
    rare = np.where(np.arange(300) == 5, 3, labels)
    found = concept_latents(codes, rare, 4)
    assert np.isnan(found.score[3])
    assert np.isfinite(found.score[:3]).all()
