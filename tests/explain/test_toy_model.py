"""Toy models against plain loops, and where what they must learn is known."""

import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import torch_stream
from monosem.core.settings import parse
from monosem.explain.toy_model import (
    ToySettings,
    superposition,
    thinned,
    top_map,
    toy_samples,
    train_toys,
)

SMALL = ToySettings(n_concepts=5, n_dims=2, batch_size=8, steps=12, importance=0.7)


def test_one_batched_problem_is_many_single_ones() -> None:
    sparsity, seeds = torch.tensor([0.0, 0.9, 0.9]), torch.tensor([4, 4, 8])
    together = train_toys(SMALL, sparsity, seeds, ("relu", "linear", "relu"))
    assert together.weight.shape == (3, 2, 5)
    for i, output in enumerate(("relu", "linear", "relu")):
        alone = _trained_by_hand(SMALL, float(sparsity[i]), int(seeds[i]), output)
        torch.testing.assert_close(together.weight[i], alone, atol=1e-5, rtol=1e-4)


def _trained_by_hand(settings: ToySettings, sparsity: float, seed: int, output: str) -> Tensor:
    stream = torch_stream(seed, "toy")
    weight = torch.randn(settings.n_dims, settings.n_concepts, generator=stream) / settings.n_concepts**0.5
    weight.requires_grad_()
    bias = torch.zeros(settings.n_concepts, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        uniform = torch.rand(settings.batch_size, settings.n_concepts, generator=stream)
        x = torch.where(uniform > sparsity, (uniform - sparsity) / (1 - sparsity), torch.zeros(()))
        loss = torch.zeros(())
        for sample in x:
            rebuilt = weight.T @ (weight @ sample) + bias
            rebuilt = rebuilt.clamp_min(0) if output == "relu" else rebuilt
            for concept in range(settings.n_concepts):
                error = (sample[concept] - rebuilt[concept]) ** 2
                loss = loss + settings.importance**concept * error / settings.batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weight.detach()


def test_the_geometry_of_concepts_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 4, generator=draw)
    weight[1, :, 2] = 0  # a concept that is not kept
    found = superposition(weight)
    for model in range(2):
        for i in range(4):
            own = weight[model, :, i]
            norm = own.norm()
            assert found.norm[model, i] == pytest.approx(float(norm))
            if norm == 0:
                assert found.dimensionality[model, i] == 0
                continue
            overlaps = [(own / norm @ weight[model, :, j]) ** 2 for j in range(4)]
            interference = sum(o for j, o in enumerate(overlaps) if j != i)
            assert found.interference[model, i] == pytest.approx(float(interference), rel=1e-5)
            assert found.dimensionality[model, i] == pytest.approx(float(norm**2 / sum(overlaps)), rel=1e-5)


def test_the_exact_map_has_a_dimension_for_each_of_its_concepts() -> None:
    exact = top_map(5, 2)
    found = superposition(exact.weight)
    assert found.norm.tolist() == [[1, 1, 0, 0, 0]]
    assert found.dimensionality.tolist() == [[1, 1, 0, 0, 0]]
    assert found.interference.abs().max() == 0
    x = torch.rand(7, 5)
    torch.testing.assert_close(exact.features(x), x[None, :, :2])


def test_sparse_concepts_are_put_on_top_of_each_other_and_dense_ones_are_not() -> None:
    """Two concepts, one dimension: an antipodal pair when sparse, the more important one alone when dense."""
    settings = ToySettings(n_concepts=2, n_dims=1, importance=0.9, steps=1500, batch_size=512)
    models = train_toys(
        settings, torch.tensor([0.0, 0.95, 0.95]), torch.tensor([0] * 3), ("relu", "relu", "linear")
    )
    dense, sparse, linear = models.weight[:, 0]
    assert sparse[0] * sparse[1] < -0.5
    assert dense.abs()[0] > 5 * dense.abs()[1] or dense[0] * dense[1] > 0
    assert abs(linear[0]) > 0.9
    assert abs(linear[1]) < 0.1
    dimensionality = superposition(models.weight).dimensionality
    assert dimensionality[1].tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_samples_are_sparse_uniform_and_labelled_by_the_largest() -> None:
    x, y = toy_samples(20_000, 6, 0.7, seed=3)
    assert (x == 0).float().mean() == pytest.approx(0.7, abs=0.01)
    positive = x[x > 0]
    assert positive.mean() == pytest.approx(0.5, abs=0.01)
    assert positive.var() == pytest.approx(1 / 12, abs=0.002)
    any_positive = x.any(1)
    assert torch.equal(x[any_positive].argmax(1), y[any_positive])
    # Samples that are all zero have every label about equally often.
    counts = torch.bincount(y[~any_positive], minlength=6) / (~any_positive).sum()
    assert counts.min() > 0.1
    again, _ = toy_samples(20_000, 6, 0.7, seed=3)
    assert torch.equal(x, again)


def test_what_is_zero_stays_zero_when_it_gets_sparser() -> None:
    uniform = torch.rand(1000, 4, generator=torch.Generator().manual_seed(1))
    less, more = thinned(uniform, 0.3), thinned(uniform, 0.6)
    assert ((less == 0) <= (more == 0)).all()
    assert (less.max(), more.max()) <= (1, 1)


def test_no_more_dimensions_than_concepts() -> None:
    with pytest.raises(InputError, match=r"n_dims \(9\) may not exceed n_concepts \(8\)"):
        parse(ToySettings, {"n_concepts": 8, "n_dims": 9}, "toy")
