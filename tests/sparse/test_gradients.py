"""Gradients written out, in every form that codes are held in, against autograd on the dense objective."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.sparse import operators
from monosem.sparse.batch_codes import FORMS
from monosem.sparse.gradients import gradients
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings

D, L, B, K, AUX_K, COEF, VARIANCE = 6, 10, 7, 3, 2, 0.5, 1.7
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


class Jump(torch.autograd.Function):
    """x where x > threshold, with the rectangle's gradient for the threshold (Rajamanoharan et al. 2024)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.width = width
        return x * (x > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = (((x - threshold).abs() < ctx.width / 2) & (x > 0)).to(x.dtype)
        return gradient * (x > threshold), (-threshold / ctx.width * near * gradient).sum(0), None


class Count(torch.autograd.Function):
    """How many x > threshold there are, with the rectangle's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.width = width
        return (x > threshold).to(x.dtype).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        x, threshold = ctx.saved_tensors
        near = (((x - threshold).abs() < ctx.width / 2) & (x > 0)).to(x.dtype)
        return None, (-near / ctx.width * gradient).sum(0), None


def naive_codes(settings: SAESettings, pre: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
    """Dense codes and the penalty."""
    nothing = pre.new_zeros(())
    match settings.activation:
        case "topk":
            keep = torch.zeros_like(pre)
            for row, kept in zip(pre, keep, strict=True):
                kept[row.argsort(descending=True)[:K]] = 1
            return pre.relu() * keep, nothing
        case "batch_topk":
            keep = torch.zeros(pre.numel(), dtype=pre.dtype)
            keep[pre.flatten().argsort(descending=True)[: K * len(pre)]] = 1
            return pre.relu() * keep.reshape(pre.shape), nothing
        case "relu":
            return pre.relu(), settings.sparsity_coef * pre.relu().sum(1).mean() / math.sqrt(D)
        case "jump_relu":
            count = Count.apply(pre, threshold, settings.bandwidth) / len(pre)
            codes = Jump.apply(pre, threshold, settings.bandwidth)
            return codes, settings.sparsity_coef * (count / K - 1) ** 2


def naive_objective(
    settings: SAESettings, z: Tensor, weights: dict[str, Tensor], dead: Tensor
) -> list[Tensor]:
    """Loss, auxiliary loss times its coefficient, and penalty, on dense codes for autograd."""
    pre = (z - weights["b_pre"]) @ weights["encoder"].T + weights["encoder_bias"]
    codes, penalty = naive_codes(settings, pre, weights.get("threshold"))
    losses = []
    for end in [*settings.prefixes, L]:
        residual = z - codes[:, :end] @ weights["decoder"][:end] - weights["b_pre"]
        losses.append(residual.square().mean() / VARIANCE)
    loss = sum(losses) / len(losses)
    if not len(dead):
        return [loss, loss.new_zeros(()), penalty]
    target = residual.detach()
    modelled = []
    for row in pre:
        ranked = dead[row[dead].argsort(descending=True)][:AUX_K]
        modelled.append(row[ranked].relu() @ weights["decoder"][ranked])
    spread = (target - target.mean(dim=0)).square().sum()
    return [loss, COEF * (target - torch.stack(modelled)).square().sum() / spread, penalty]


def example(**changes: Any) -> tuple[SAE, Tensor]:
    """An SAE with random weights and a batch of normalised inputs, in float64."""
    random = torch.Generator().manual_seed(1)
    settings = SAESettings(n_latents=L, k=K, aux_k=AUX_K, aux_coef=COEF, **changes)
    sae = SAE(D, settings).double()
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    if sae.threshold is not None:
        sae.threshold.copy_(torch.linspace(0.05, 1.5, L))
    return sae, torch.randn(B, D, generator=random, dtype=torch.float64)


ACTIVATIONS = {
    "topk": {},
    "batch_topk": {"activation": "batch_topk"},
    "relu": {"activation": "relu", "sparsity_coef": 0.7},
    "jump_relu": {"activation": "jump_relu", "sparsity_coef": 0.7, "bandwidth": 0.8},
}


@EVERY_FORM
@pytest.mark.parametrize("dead", [[], [4], [0, 3, 5, 8, 9]])
@pytest.mark.parametrize("prefixes", [(), (2, 7)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_dense_objective(
    form: str, dead: list[int], prefixes: tuple[int, ...], activation: str
) -> None:
    sae, z = example(prefixes=prefixes, **ACTIVATIONS[activation])
    dead_latents = torch.tensor(dead, dtype=torch.int64)
    weights = {name: p.clone().requires_grad_() for name, p in sae.named_parameters()}
    parts = naive_objective(sae.settings, z, weights, dead_latents)
    torch.stack(parts).sum().backward()
    step = gradients(sae, z, dead_latents, VARIANCE, form=FORMS[form])

    found = [step.loss, COEF * step.aux_loss, step.penalty]
    for part, expected in zip(found, parts, strict=True):
        torch.testing.assert_close(part, expected.detach(), rtol=1e-11, atol=1e-14)
    for name, parameter in sae.named_parameters():
        expected = weights[name].grad
        assert expected.abs().sum() > 0, name
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-13, msg=name)
    radial = (sae.decoder.grad * sae.decoder).sum(dim=1)
    torch.testing.assert_close(step.radial, radial, rtol=1e-9, atol=1e-13)
    pre = (z - sae.b_pre) @ sae.encoder.T + sae.encoder_bias
    codes, _ = naive_codes(sae.settings, pre, weights.get("threshold"))
    assert torch.equal(step.active, (codes > 0).any(dim=0))


@EVERY_FORM
def test_parts_of_a_batch_add_up(form: str) -> None:
    """What processes compute for their rows, given the rows of all, sums to the whole batch's."""
    sae, z = example()
    nothing = torch.empty(0, dtype=torch.int64)
    whole = gradients(sae, z, nothing, VARIANCE, form=FORMS[form])
    expected = {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}
    sums = {name: torch.zeros_like(gradient) for name, gradient in expected.items()}
    losses = []
    for part in (z[:3], z[3:]):
        losses.append(gradients(sae, part, nothing, VARIANCE, form=FORMS[form], n=len(z)).loss)
        for name, parameter in sae.named_parameters():
            sums[name] += parameter.grad
    torch.testing.assert_close(sum(losses), whole.loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(sums[name], gradient)


def test_room_for_outputs_may_be_larger_than_the_batch() -> None:
    sae, z = example()
    nothing = torch.empty(0, dtype=torch.int64)
    expected = gradients(sae, z, nothing, VARIANCE).loss
    assert gradients(sae, z, nothing, VARIANCE, outputs=z.new_empty(20, L)).loss == expected


@pytest.mark.skipif(bool(operators.why_not()), reason=f"no compiled operators: {operators.why_not()}")
def test_compiled_gradients_in_single_precision() -> None:
    """The operators themselves, which take float32 alone, with and without prefixes."""
    random = torch.Generator().manual_seed(2)
    for prefixes in ((), (50, 200)):
        sae = SAE(70, SAESettings(n_latents=500, k=20, prefixes=prefixes))
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
        z = torch.randn(33, 70, generator=random)
        found = {}
        for form in FORMS:
            gradients(sae, z, torch.tensor([3, 77]), 1.0, form=FORMS[form])
            found[form] = {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}
        for form in ("sparse", "compiled"):
            for name, expected in found["dense"].items():
                torch.testing.assert_close(found[form][name], expected, rtol=1e-3, atol=1e-4, msg=name)
