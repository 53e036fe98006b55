import math

import pytest
import torch
from torch import Tensor

from monosem.core.nonlinearities import NONLINEARITIES
from monosem.encoders.contrastive_loss import nonnegative_nt_xent, nt_xent

FORMS = [(name, on) for name in NONLINEARITIES for on in ("raw", "normalised")]


def outputs(
    n: int, dim: int, dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, z1 = (torch.randn(n, dim, dtype=torch.float64, generator=generator) * scale for _ in range(2))
    return z0.to(dtype).requires_grad_(), z1.to(dtype).requires_grad_()


def naive_nt_xent(u: list[Tensor], temperature: float) -> Tensor:
    """SimCLR's definition, view by view; `u` holds the first views, then the second ones."""
    n = len(u) // 2
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        similar = [torch.dot(u[i], u[j]) / (u[i].norm() * u[j].norm()) for j in range(2 * n)]
        others = sum(torch.exp(similar[j] / temperature) for j in range(2 * n) if j != i)
        losses.append(-torch.log(torch.exp(similar[partner] / temperature) / others))
    return sum(losses) / len(losses)


def test_nt_xent_equals_the_double_loop_with_its_gradient() -> None:
    z0, z1 = outputs(5, 4)
    fast, slow = nt_xent(z0, z1, 0.3), naive_nt_xent([*z0, *z1], 0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
    for one, other in zip(
        torch.autograd.grad(fast, (z0, z1)), torch.autograd.grad(slow, (z0, z1)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "on"), FORMS)
def test_every_nonnegative_form_equals_the_double_loop_with_its_gradient(name: str, on: str) -> None:
    z0, z1 = outputs(5, 8)
    rows = [*z0, *z1] if on == "raw" else [row / row.norm() for row in (*z0, *z1)]
    fast = nonnegative_nt_xent(z0, z1, 0.3, name, on)
    slow = naive_nt_xent([NONLINEARITIES[name](row) for row in rows], 0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
    for one, other in zip(
        torch.autograd.grad(fast, (z0, z1)), torch.autograd.grad(slow, (z0, z1)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_the_nonnegative_loss_is_not_the_plain_one() -> None:
    z0, z1 = outputs(5, 8)
    assert abs(nt_xent(z0, z1, 0.3) - nonnegative_nt_xent(z0, z1, 0.3, "relu", "raw")) > 0.01


@pytest.mark.parametrize("n", [2, 7])
def test_features_that_tell_nothing_apart_are_at_chance(n: int) -> None:
    same = torch.ones(n, 3)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(2 * n - 1), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "on"), FORMS)
def test_low_temperature_and_large_outputs_do_not_overflow(name: str, on: str, dtype: torch.dtype) -> None:
    z0, z1 = outputs(6, 8, dtype, scale=300.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = nonnegative_nt_xent(z0, z1, 0.01, name, on)
    # The same rounded inputs in double precision: what is left is float32's error, never bf16's.
    reference = nonnegative_nt_xent(z0.double(), z1.double(), 0.01, name, on)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference, rtol=1e-3, atol=1e-3)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, (z0, z1)))


@pytest.mark.parametrize(("name", "on"), FORMS)
def test_rows_without_a_direction_have_finite_moderate_gradients(name: str, on: str) -> None:
    z0, z1 = outputs(4, 8, torch.float32)
    with torch.no_grad():
        z0[0] = 0.0
        z1[1] = -z1[1].abs()  # all zero after ReLU
        z0[2] = 1e-30
    loss = nonnegative_nt_xent(z0, z1, 0.2, name, on)
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, (z0, z1)):
        assert gradient.abs().max() < 1e3
