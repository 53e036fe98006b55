import numpy as np
import pandas as pd
import pytest
import torch

from monosem.experiments.grid import (
    ProbedFeatures,
    corrupt,
    measure,
    noise_cells,
    published_protocol,
    tuned_protocol,
)
from monosem.experiments.recipes import LabelNoiseGrid
from monosem.robust.probe import ProbeSettings, train_probes
from monosem.robust.ridge import RidgePath, RidgeSettings

K, N, M, D = 3, 90, 60, 5
LABEL_CONDITION, INPUT_CONDITION = "label-noise-symmetric", "input-noise-gaussian"


@pytest.fixture(scope="module")
def task():
    """Three Gaussian classes: training features and labels, test features clean and noisy."""
    random = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(K, D, generator=random)

    def draw(n):
        labels = torch.arange(n) % K
        return centres[labels] + torch.randn(n, D, generator=random), labels

    (train, train_labels), (clean, test_labels) = draw(N), draw(M)
    cells = noise_cells((0.5, 2.0), 2)
    noisy = [clean + level * torch.randn(M, D, generator=random) for level, _ in cells]
    noisy_labels = corrupt(train_labels, K, LabelNoiseGrid(levels=(0.2, 0.5)), draws=2, seed=0)
    return (
        train,
        train_labels,
        noisy_labels,
        ProbedFeatures(INPUT_CONDITION, test_labels, clean, cells, noisy),
    )


def as_table(outcome):
    return pd.DataFrame(outcome.rows).set_index(["protocol", "condition", "level", "noise_seed", "metric"])[
        "value"
    ]


def test_cells_are_clean_first_then_every_level_with_every_draw(task):
    _, labels, noisy, _ = task
    assert noisy.cells == ((0.0, 0), (0.2, 0), (0.2, 1), (0.5, 0), (0.5, 1))
    assert torch.equal(noisy.labels[0], labels)
    assert torch.equal(noisy.flipped, noisy.labels != labels)
    assert noisy.flipped.sum(dim=1).tolist() == [0, 18, 18, 45, 45]
    assert (noisy.flipped[1] <= noisy.flipped[3]).all()  # nested: what is wrong at 20 % is wrong at 50 %
    assert not torch.equal(noisy.flipped[1], noisy.flipped[2])
    np.testing.assert_allclose(noisy.signal, [1, 0.7, 0.7, 0.25, 0.25])


def test_published_rows_are_those_of_probes_trained_one_by_one(task):
    train, _, noisy, test = task
    settings = ProbeSettings(epochs=3, batch_size=16)
    outcome = published_protocol(train, noisy, test, settings, seed=4)
    table = as_table(outcome)
    rights = []
    for cell, (level, draw) in enumerate(noisy.cells):
        probe = train_probes(train, noisy.labels[cell : cell + 1], K, settings, seed=4)
        right = probe.predict(test.clean)[0] == test.labels
        key = ("published", LABEL_CONDITION, level, draw)
        assert table[(*key, "accuracy")] == pytest.approx(right.float().mean().item())
        if level:
            rights.append(right.float())
            wrong = noisy.flipped[cell]
            kept = (probe.predict(train)[0][wrong] == noisy.labels[cell][wrong]).float().mean().item()
            assert table[(*key, "memorised")] == pytest.approx(kept)
            assert table[(*key, "label_signal")] == pytest.approx(noisy.signal[cell])
        else:
            clean_probe = probe
    for (level, draw), features in zip(test.cells, test.noisy, strict=True):
        accuracy = (clean_probe.predict(features)[0] == test.labels).float().mean().item()
        assert table["published", INPUT_CONDITION, level, draw, "accuracy"] == pytest.approx(accuracy)
    np.testing.assert_allclose(
        outcome.correctness["published", LABEL_CONDITION], torch.stack(rights).mean(dim=0), atol=1e-6
    )


def test_tuned_takes_the_least_leave_one_out_error_and_the_oracle_the_best_test_accuracy(task):
    train, _, noisy, test = task
    settings = RidgeSettings(per_decade=1)
    table = as_table(tuned_protocol(train, noisy, test, settings, seed=0))
    for cell, (level, draw) in enumerate(noisy.cells):
        fits = RidgePath.fit(train).solve(noisy.labels[cell : cell + 1], K, settings, seed=0)
        accuracies = fits.accuracy(test.clean, test.labels)[:, 0]
        chosen = int(fits.loo_error[:, 0].argmin())
        key = (LABEL_CONDITION, level, draw)
        assert table[("tuned", *key, "accuracy")] == pytest.approx(float(accuracies[chosen]))
        assert table[("tuned", *key, "strength")] == pytest.approx(float(fits.strengths[chosen]))
        assert table[("tuned", *key, "at_edge")] == (chosen in (0, len(accuracies) - 1))
        assert table[("oracle", *key, "accuracy")] == pytest.approx(float(accuracies.max()))


def test_the_oracle_is_never_below_the_tuned_probe(task):
    train, _, noisy, test = task
    table = as_table(tuned_protocol(train, noisy, test, RidgeSettings(per_decade=1), seed=0))
    accuracy = table.xs("accuracy", level="metric").unstack("protocol")
    assert len(accuracy) == 5 + 5  # both corruptions, each with its clean cell
    assert (accuracy["oracle"] >= accuracy["tuned"] - 1e-9).all()
    assert (accuracy["oracle"] > accuracy["tuned"]).any()


def test_measures_of_one_hot_features_are_what_they_must_be(task):
    _, _, _, test = task
    pure = torch.nn.functional.one_hot(test.labels, K).float()
    outcome = measure(pure, test.labels, ProbedFeatures(INPUT_CONDITION, test.labels, pure, (), []), K)
    values = {row["metric"]: row["value"] for row in outcome.rows}
    assert values["native_monosemanticity"] == pytest.approx(1.0)
    assert values["matched_monosemanticity"] == pytest.approx(1.0)
    assert values["l0"] == pytest.approx(1.0)
    assert values["active_dimensions"] == values["dimensions"] == K
    assert values["effective_dimension"] == pytest.approx(K - 1)
    assert values["knn_accuracy"] == 1.0
