"""Products of probes with codes held sparse, beside those with the dense features."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.core.errors import Paused
from monosem.core.progress import SilentWatch
from monosem.data.codes import Codes
from monosem.robust import probe
from monosem.robust.probe import ProbeSettings, train_probes
from monosem.robust.probe_inputs import DenseInputs, SparseInputs
from monosem.sparse.batch_codes import CompiledCodes, SparseCodes

N, D, K, P = 300, 30, 3, 4


def codes_of(dtype: torch.dtype) -> Codes:
    """Rows with some columns twice, some rows and columns without a value."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(3, D, (N, 6), generator=generator, dtype=torch.int32)
    values = torch.rand(N, 6, generator=generator, dtype=dtype) + 0.2
    values[::17] = 0
    return Codes(indices, values, D)


@pytest.mark.parametrize("form", [SparseCodes, CompiledCodes])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_products_are_those_of_the_scaled_dense_features(
    form: type[SparseCodes], dtype: torch.dtype, most: float
) -> None:
    codes, rows = codes_of(dtype), torch.arange(5, 120, 3)
    random = torch.Generator().manual_seed(1)
    weight, bias = (
        torch.randn(D, 7, generator=random, dtype=dtype),
        torch.randn(7, generator=random).to(dtype),
    )
    residual = torch.randn(len(rows), 7, generator=random, dtype=dtype)
    before = torch.randn(D, 7, generator=random, dtype=dtype)
    mean, rms = codes[:].mean(dim=0), 1.7
    scaled = (codes[rows] - mean) / rms
    for inputs in (SparseInputs.scaled(codes.take(rows), mean, rms, form), DenseInputs(scaled)):
        torch.testing.assert_close(inputs.logits(weight, bias), scaled @ weight + bias, rtol=most, atol=most)
        expected = scaled.T @ residual / len(rows)
        for room in (None, before.clone()):
            torch.testing.assert_close(inputs.gradient(residual, room), expected, rtol=most, atol=most)
        on_top = inputs.gradient(residual, before.clone(), beta=0.9)
        torch.testing.assert_close(on_top, 0.9 * before + expected, rtol=most, atol=most)


@pytest.mark.parametrize("products", ["sparse", "compiled"])
@pytest.mark.parametrize("scale", ["rms", "raw"])
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adam"])
def test_probes_on_codes_are_those_on_dense_features(optimizer: str, scale: str, products: Any) -> None:
    codes = codes_of(torch.float64)
    labels = torch.randint(K, (P, N), generator=torch.Generator().manual_seed(2))
    settings = ProbeSettings(epochs=3, batch_size=32, optimizer=optimizer, scale=scale, lr=0.1)
    found, expected = (
        train_probes(features, labels, K, settings, seed=0, products=products)
        for features in (codes, codes[:])
    )
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-8, atol=1e-10)
    assert expected.weight.abs().max() > 0.01


def chooses(form: str) -> Callable[[Mapping[str, Callable[[], float]]], str]:
    """What finds this form to be the fastest, once it has tried all."""

    def choose(trials: Mapping[str, Callable[[], float]]) -> str:
        assert all(abs(trial()) < 1 for trial in trials.values())
        assert "dense" in trials
        return form

    return choose


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def test_what_was_fastest_at_the_start_stays_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A trial leaves no trace, and a training that goes on does not choose again."""
    codes = codes_of(torch.float32)
    labels = torch.randint(K, (P, N), generator=torch.Generator().manual_seed(2))
    settings = ProbeSettings(epochs=2, batch_size=60)
    dense, sparse = (
        train_probes(codes, labels, K, settings, seed=0, products=form) for form in ("dense", "sparse")
    )
    assert not torch.equal(dense.weight, sparse.weight)
    monkeypatch.setattr(probe, "is_worth_timing", lambda multiplications: multiplications == 60 * D * P * K)
    monkeypatch.setattr(probe, "fastest", chooses("sparse"))
    assert torch.equal(train_probes(codes, labels, K, settings, seed=0).weight, sparse.weight)
    assert torch.equal(train_probes(codes[:], labels, K, settings, seed=0).weight, dense.weight)  # no codes
    with pytest.raises(Paused):
        train_probes(codes, labels, K, settings, 0, PauseAlways(), tmp_path)
    monkeypatch.setattr(probe, "fastest", chooses("dense"))
    resumed = train_probes(codes, labels, K, settings, 0, SilentWatch(), tmp_path)
    assert torch.equal(resumed.weight, sparse.weight)


def test_small_work_is_done_densely_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "fastest", lambda trials: pytest.fail("looked"))
    codes = codes_of(torch.float32)
    labels = torch.randint(K, (P, N), generator=torch.Generator().manual_seed(2))
    train_probes(codes, labels, K, ProbeSettings(epochs=1), seed=0)
