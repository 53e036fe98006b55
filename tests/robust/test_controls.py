import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.robust.controls import crelu, pca, random_topk, relu, rotation, spectrum_matched
from monosem.robust.probe import ProbeSettings, train_probes


def features(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator) * torch.linspace(0.2, 2, dim)
    return torch.randn(n, dim, generator=generator) @ mixing + 1


def singular_values(x: Tensor) -> Tensor:
    return torch.linalg.svdvals((x - x.mean(0)).double()) / len(x) ** 0.5


def test_rotation_keeps_all_angles_and_follows_its_seed() -> None:
    x = features(20, 6, 0)
    rotated = rotation(6, seed=0)(x)
    torch.testing.assert_close(rotated @ rotated.T, x @ x.T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rotated, x, atol=0.1)
    assert torch.equal(rotation(6, seed=0)(x), rotated)
    assert not torch.allclose(rotation(6, seed=1)(x), rotated, atol=0.1)


def test_rotations_are_uniform() -> None:
    # The first column of a uniform rotation is a uniform direction: mean 0, variance 1/D in every coordinate.
    columns = torch.stack([rotation(3, seed)(torch.eye(3))[:, 0] for seed in range(400)])
    torch.testing.assert_close(columns.mean(0), torch.zeros(3), rtol=0, atol=0.12)
    torch.testing.assert_close(columns.square().mean(0), torch.full((3,), 1 / 3), rtol=0, atol=0.06)


def test_a_rotated_set_never_differs_under_an_equivariant_probe() -> None:
    x = relu(features(120, 16, 0))
    labels = torch.randint(4, (3, 120), generator=torch.Generator().manual_seed(2))
    rotate = rotation(16, seed=7)
    for optimizer in ("sgd", "lars"):
        settings = ProbeSettings(epochs=10, batch_size=32, optimizer=optimizer)
        native = train_probes(x, labels, 4, settings, seed=0).logits(x)
        rotated = train_probes(rotate(x), labels, 4, settings, seed=0).logits(rotate(x))
        torch.testing.assert_close(rotated, native, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mono_dim", [8, 5, 11])
def test_spectrum_is_the_other_sets(mono_dim: int) -> None:
    dense, mono = features(200, 8, 0), relu(features(150, mono_dim, 1))
    matched = spectrum_matched(dense, mono)(dense)
    expected = torch.zeros(max(8, mono_dim), dtype=torch.float64)
    expected[:mono_dim] = singular_values(mono)
    torch.testing.assert_close(singular_values(matched), expected[:8], rtol=1e-5, atol=1e-5)


def test_spectrum_matched_keeps_the_axes_and_extends_to_new_rows() -> None:
    dense, mono = features(200, 8, 0), features(200, 8, 1)
    transform = spectrum_matched(dense, mono)
    torch.testing.assert_close(transform(dense[:7]), transform(dense)[:7])
    centred = (dense - dense.mean(0)).double()
    axes = torch.linalg.svd(centred, full_matrices=False).Vh
    covariance = axes @ transform(dense).double().T @ transform(dense).double() @ axes.T / 200
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        spectrum_matched(dense, dense)(dense), (dense - dense.mean(0)), rtol=0, atol=1e-4
    )


def test_pca_keeps_the_largest_components() -> None:
    x = features(100, 6, 0)
    torch.testing.assert_close(singular_values(pca(x, 3)(x)), singular_values(x)[:3])
    assert pca(x, 50)(x).shape == (100, 6)
    with pytest.raises(InputError, match="at least one component"):
        pca(x, 0)


def test_relu_and_crelu() -> None:
    x = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    assert relu(x).tolist() == [[1, 0], [0, 4]]
    assert crelu(x).tolist() == [[1, 0, 0, 2], [0, 4, 3, 0]]


def test_random_topk_keeps_the_k_largest_and_only_positive_ones() -> None:
    x, mean = features(50, 6, 0), torch.full((6,), 1.0)
    full, sparse = random_topk(mean, 20, 20, seed=3)(x), random_topk(mean, 20, 4, seed=3)(x)
    assert (sparse >= 0).all()
    for row, kept in zip(full, sparse, strict=True):
        largest = row.sort(descending=True).values[:4]
        torch.testing.assert_close(kept.sort(descending=True).values[:4], largest)
        assert (kept > 0).sum() <= 4
    assert torch.equal(random_topk(mean, 20, 4, seed=3)(x), sparse)
    assert not torch.equal(random_topk(mean, 20, 4, seed=4)(x), sparse)
    for k in (0, 21):
        with pytest.raises(InputError, match=r"k in 1\.\.20"):
            random_topk(mean, 20, k, seed=0)
