import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.robust import probe_score
from monosem.robust.probe_score import probe_accuracy
from monosem.robust.ridge import RidgePath, RidgeSettings
from monosem.sparse.evaluate import sae_quality
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three overlapping classes in six dimensions."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=random)
    return torch.randn(n, 6, generator=random) + 2 * torch.eye(3, 6)[labels], labels


def test_it_is_the_accuracy_of_the_ridge_probe_of_the_training_features() -> None:
    (train, labels), (test, truth) = blobs(400, 0), blobs(300, 1)
    fits = RidgePath.fit(train).solve(labels[None], 3, RidgeSettings(), seed=0)
    predicted = fits.probes(fits.tuned()).predict(test)[0]
    score = probe_accuracy(train, labels, truth, 3)
    assert score(test) == pytest.approx(float((predicted == truth).double().mean()))
    assert 0.6 < score(test) < 0.95
    assert score(torch.zeros_like(test)) < 0.5  # the probe stays what it was


def test_what_survives_on_reconstructions_is_a_share_of_it() -> None:
    (train, labels), (test, truth) = blobs(400, 0), blobs(300, 1)
    score = probe_accuracy(train, labels, truth, 3)
    sae = fit_sae(train, SAESettings(n_latents=8, k=1, epochs=5))
    kept = sae_quality(sae, test, downstream=score).downstream
    assert kept == pytest.approx(score(sae(test)) / score(test))
    assert kept < 1


def test_of_many_rows_some_evenly_spaced_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (test, truth) = blobs(400, 0), blobs(300, 1)
    monkeypatch.setattr(probe_score, "_MOST_ROWS", 40)
    rows = [int(399 * place / 39) for place in range(40)]
    few = probe_accuracy(train[rows], labels[rows], truth, 3)
    assert probe_accuracy(train, labels, truth, 3)(test) == few(test)


def test_codes_score_as_the_dense_features_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (test, truth) = blobs(400, 0), blobs(300, 1)
    codes = [Codes.from_blocks([some.relu()]) for some in (train, test)]
    for most in (2**15, 40):  # all rows, and some
        monkeypatch.setattr(probe_score, "_MOST_ROWS", most)
        expected = probe_accuracy(train.relu(), labels, truth, 3)(test.relu())
        assert probe_accuracy(codes[0], labels, truth, 3)(codes[1]) == expected
    assert 0.5 < expected < 1


def test_what_does_not_fit_is_refused() -> None:
    features, labels = blobs(50, 0)
    score = probe_accuracy(features, labels, labels, 3)
    with pytest.raises(InputError, match="scored on 50 labels got features of 40 samples"):
        score(features[:40])
    with pytest.raises(InputError):
        probe_accuracy(features, labels[:40], labels, 3)
    with pytest.raises(InputError, match="one class only"):
        probe_accuracy(features, torch.zeros(50, dtype=torch.int64), labels, 3)
