import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from monosem.core.errors import InputError
from monosem.robust.ridge import RidgePath, RidgeSettings

K = 3
GRID = RidgeSettings(log10_weakest=-4, log10_strongest=1, per_decade=1)


def problem(n: int = 25, dim: int = 4, n_problems: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = (
        torch.randn(n, dim, generator=generator, dtype=torch.float64) * torch.linspace(0.3, 2, dim).double()
    )
    labels = torch.randint(K, (n_problems, n), generator=generator)
    features[:, 0] += labels[0]
    return features + 5, labels


def naive_ridge(features: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Minimise |one-hot - x w - b|^2 + penalty |w|^2 with the intercept as an unpenalised column."""
    design = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    ridge = penalty * torch.eye(design.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    onehot = torch.nn.functional.one_hot(labels, K).double()
    solution = torch.linalg.solve(design.T @ design + ridge, design.T @ onehot)
    return solution[:-1], solution[-1]


def penalties(features: Tensor) -> Tensor:
    return GRID.strengths() * (features - features.mean(0)).square().sum()


@pytest.mark.parametrize("dim", [4, 40])
def test_probes_equal_a_direct_solution(dim: int) -> None:
    features, labels = problem(dim=dim)
    fits = RidgePath.fit(features).solve(labels, K, GRID, seed=0)
    for index, penalty in enumerate(penalties(features)):
        probes = fits.probes(torch.full((2,), index))
        for p in range(2):
            w, b = naive_ridge(features, labels[p], float(penalty))
            torch.testing.assert_close(probes.logits(features + 1)[p], (features + 1) @ w + b)


@pytest.mark.parametrize("dim", [4, 40])
def test_leave_one_out_equals_refits(dim: int) -> None:
    features, labels = problem(dim=dim)
    errors = torch.zeros(len(GRID.strengths()), 2, dtype=torch.float64)
    for index, penalty in enumerate(penalties(features)):
        for p in range(2):
            for left_out in range(len(features)):
                rest = torch.arange(len(features)) != left_out
                w, b = naive_ridge(features[rest], labels[p, rest], float(penalty))
                target = torch.nn.functional.one_hot(labels[p, left_out], K)
                errors[index, p] += (features[left_out] @ w + b - target).square().sum() / len(features)
    fits = RidgePath.fit(features).solve(labels, K, GRID, seed=0)
    torch.testing.assert_close(fits.loo_error, errors, rtol=1e-6, atol=0)
    assert torch.equal(fits.tuned(), errors.argmin(0))


def test_leave_one_out_on_some_rows_is_an_estimate_over_them() -> None:
    features, labels = problem(n=300)
    path = RidgePath.fit(features)
    every = path.solve(labels, K, GRID, seed=0).loo_error
    some = path.solve(labels, K, GRID.replace(loo_rows=150), seed=0).loo_error
    assert torch.equal(some, path.solve(labels, K, GRID.replace(loo_rows=150), seed=0).loo_error)
    assert not torch.equal(some, path.solve(labels, K, GRID.replace(loo_rows=150), seed=1).loo_error)
    torch.testing.assert_close(some, every, rtol=0.1, atol=0)


def test_accuracy_and_choices_follow_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosem.robust.ridge._ROWS_AT_ONCE", 7)
    features, labels = problem()
    test_features, test_labels = problem(n=30)
    fits = RidgePath.fit(features).solve(labels, K, GRID, seed=0)
    accuracy = torch.stack(
        [
            (fits.probes(torch.full((2,), index)).predict(test_features) == test_labels[0]).double().mean(1)
            for index in range(len(fits.strengths))
        ]
    )
    torch.testing.assert_close(fits.accuracy(test_features, test_labels[0]), accuracy)
    oracle = fits.oracle(test_features, test_labels[0])
    torch.testing.assert_close(accuracy.gather(0, oracle[None])[0], accuracy.amax(0))
    assert fits.at_edge(torch.tensor([0, 1, 4, 5])).tolist() == [True, False, False, True]


def test_pure_noise_asks_for_a_stronger_penalty_than_signal() -> None:
    features, labels = problem(n=400, dim=8, n_problems=6)
    tuned = RidgePath.fit(features).solve(labels, K, GRID, seed=0).tuned()
    assert (tuned[1:] > tuned[0]).all()


@pytest.mark.parametrize("factor", [1e-3, 10.0, 1e3])
def test_unit_origin_rotation_and_padding_change_no_choice_and_no_prediction(factor: float) -> None:
    features, labels = (tensor.float() if tensor.is_floating_point() else tensor for tensor in problem(n=80))
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    moved = torch.cat(
        [factor * (features @ rotation + torch.linspace(-20, 20, 4)), torch.zeros(80, 3)], dim=1
    )
    native, other = (RidgePath.fit(x).solve(labels, K, GRID, seed=0) for x in (features, moved))
    assert torch.equal(native.tuned(), other.tuned())
    expected = native.probes(native.tuned()).logits(features)
    torch.testing.assert_close(other.probes(other.tuned()).logits(moved), expected, rtol=0, atol=1e-4)


def test_a_class_missing_from_the_labels_is_never_predicted() -> None:
    features, labels = problem()
    fits = RidgePath.fit(features).solve(labels.clamp(max=1), K, GRID, seed=0)
    assert fits.probes(fits.tuned()).predict(features).max() == 1


def test_bad_input_is_refused() -> None:
    features, labels = problem()
    path = RidgePath.fit(features)
    with pytest.raises(InputError, match=r"0\.\.1, found 2"):
        path.solve(labels, 2, GRID, seed=0)
    with pytest.raises(InputError, match="one class only"):
        path.solve(torch.ones_like(labels), K, GRID, seed=0)
    with pytest.raises(ValidationError, match="five decades"):
        RidgeSettings(log10_weakest=-2, log10_strongest=2)
