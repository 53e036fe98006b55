"""Codes give the bits of the dense tensor wherever both are taken, and are never made dense as a whole.

Large probes may multiply with them as they are, which rounds differently: see test_probe_inputs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monosem.core.errors import InputError, Paused
from monosem.core.progress import SilentWatch
from monosem.data.codes import Codes
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.measures.geometry import effective_dimension, knn_accuracy, l0, spectrum
from monosem.robust.controls import spectrum_matched
from monosem.robust.principal import principal_axes
from monosem.robust.probe import FeatureScale, ProbeSettings, train_probes
from monosem.robust.ridge import RidgePath, RidgeSettings
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings

N, D, K, P = 4500, 40, 3, 2  # more rows than are read together
GRID = RidgeSettings(log10_weakest=-4, log10_strongest=1, per_decade=1, loo_rows=300)


def problem(n: int = N, dim: int = D, k: int = 5) -> tuple[Tensor, Tensor]:
    """Dense features [n, dim] with k values a row, some rows empty, and labels [P, n]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (P, n), generator=generator)
    columns = torch.rand(n, dim, generator=generator).topk(k, dim=1).indices
    values = torch.rand(n, k, generator=generator) + labels[0][:, None]
    values[::97] = 0
    return torch.zeros(n, dim).scatter_(1, columns, values), labels


def probed(features: Any, labels: Tensor) -> list[Tensor]:
    probes = train_probes(features, labels, K, ProbeSettings(epochs=1, batch_size=500), seed=0)
    return [probes.weight, probes.bias, probes.predict(features), probes.logits(features)]


def raw(features: Any, labels: Tensor) -> list[Tensor]:
    settings = ProbeSettings(epochs=1, batch_size=500, scale="raw", optimizer="adam")
    return [train_probes(features, labels, K, settings, seed=0).weight]


def ridge(features: Any, labels: Tensor) -> list[Tensor]:
    fits = RidgePath.fit(features).solve(labels, K, GRID, seed=0)
    probes = fits.probes(fits.tuned())
    return [fits.moments, fits.loo_error, fits.accuracy(features, labels[0]), probes.weight]


def scale(features: Any, labels: Tensor) -> list[Tensor]:
    fitted = FeatureScale.fit(features)
    return [fitted.mean, torch.tensor(fitted.rms, dtype=torch.float64)]


def axes(features: Any, labels: Tensor) -> list[Tensor]:
    control = spectrum_matched(torch.eye(5), features)
    return [*principal_axes(features), control(torch.eye(5))]


def measures(features: Any, labels: Tensor) -> list[Tensor]:
    scores = [
        torch.from_numpy(score(features, labels[0], K).share)
        for score in (native_monosemanticity, matched_monosemanticity)
    ]
    return [*scores, spectrum(features), torch.tensor([effective_dimension(features), l0(features)])]


def neighbours(features: Any, labels: Tensor) -> list[Tensor]:
    return [torch.tensor(knn_accuracy(features, labels[0], features, labels[0], K))]


USES: list[Callable[[Any, Tensor], list[Tensor]]] = [probed, raw, ridge, scale, axes, measures, neighbours]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_codes_give_the_bits_of_the_dense_tensor(
    use: Callable[[Any, Tensor], list[Tensor]], dtype: torch.dtype
) -> None:
    dense, labels = problem()
    dense = dense.to(dtype)
    codes = Codes.from_blocks(dense.split(1000))
    assert codes.values.dtype == dtype
    for sparse, expected in zip(use(codes, labels), use(dense, labels), strict=True):
        assert torch.equal(sparse.nan_to_num(), expected.nan_to_num())


def test_more_dimensions_than_samples_give_the_same_bits_too() -> None:
    dense, labels = problem(n=30, dim=61)
    codes = Codes.from_blocks([dense])
    for sparse, expected in zip(ridge(codes, labels), ridge(dense, labels), strict=True):
        assert torch.equal(sparse, expected)


class LargestTensor(TorchDispatchMode):
    """Most entries of any floating tensor that an operation gave or took."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize("use", [probed, ridge, scale, axes, measures])
def test_the_whole_is_never_dense(use: Callable[[Any, Tensor], list[Tensor]]) -> None:
    dense, labels = problem(n=9000)
    codes = Codes.from_blocks(dense.split(1000))
    with LargestTensor() as of_codes:
        use(codes, labels)
    assert of_codes.entries < 5000 * D
    with LargestTensor() as of_dense:
        use(dense, labels)
    assert of_dense.entries >= 9000 * D


def test_an_sae_encodes_without_ever_holding_all_codes_dense() -> None:
    dense, _ = problem(n=9000)
    sae = SAE(D, SAESettings(n_latents=100, k=3))
    sae.encoder.copy_(torch.randn(100, D, generator=torch.Generator().manual_seed(0)))
    with LargestTensor() as largest:
        codes = sae.encode_sparse(dense)
    assert largest.entries <= 4096 * 100
    assert torch.equal(codes[:], sae.encode(dense))


@pytest.mark.parametrize("products", ["dense", "sparse"])
def test_what_asks_for_gradients_is_probed_as_what_does_not(products: Any) -> None:
    dense, labels = problem(n=60)
    codes, settings = Codes.from_blocks([dense]), ProbeSettings(epochs=1, batch_size=30)
    asking = Codes(codes.indices, codes.values.clone().requires_grad_(), codes.dim)
    for given in (asking, dense.clone().requires_grad_()):
        probes = train_probes(given, labels, K, settings, 0, products=products)
        solved = RidgePath.fit(given).solve(labels, K, GRID, seed=0)
        of_ridge = solved.probes(solved.tuned())
        for found in (probes.weight, probes.bias, probes.center, of_ridge.weight, of_ridge.bias):
            assert not found.requires_grad
        expected = train_probes(dense, labels, K, settings, 0).weight
        torch.testing.assert_close(probes.weight, expected, rtol=1e-4, atol=1e-5)


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def test_probes_on_codes_pause_and_go_on_and_know_their_features(tmp_path: Path) -> None:
    dense, labels = problem(n=60)
    codes, settings = Codes.from_blocks([dense]), ProbeSettings(epochs=1, batch_size=30)
    with pytest.raises(Paused):
        train_probes(codes, labels, K, settings, 0, PauseAlways(), tmp_path)
    other = Codes(codes.indices, codes.values + 1, codes.dim)
    with pytest.raises(InputError, match="other settings, seed or data"):
        train_probes(other, labels, K, settings, 0, PauseAlways(), tmp_path)
    resumed = train_probes(codes, labels, K, settings, 0, SilentWatch(), tmp_path)
    assert torch.equal(resumed.weight, train_probes(dense, labels, K, settings, 0).weight)


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_dense_table() -> None:
    dense, labels = problem()
    dense[4200, 7] = float("nan")
    codes = Codes.from_blocks(dense.split(1000))
    with pytest.raises(InputError, match="row 4200, column 7"):
        train_probes(codes, labels, K, ProbeSettings(epochs=1), seed=0)
