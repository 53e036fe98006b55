import math

import pytest
import torch
from torch import nn

from monosem.encoders.optim import LARS, adamw, warmup_cosine


@pytest.mark.parametrize("clip_lr", [True, False])
def test_lars_equals_a_naive_loop(clip_lr: bool) -> None:
    lr, weight_decay, momentum, eta = 0.3, 0.01, 0.9, 0.02
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4,), (2, 3, 2, 2), (2, 2)]
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights[3].zero_()  # a norm of zero: no trust ratio
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = LARS(parameters, lr, weight_decay, momentum, eta, clip_lr)
    velocity = [torch.zeros_like(weight) for weight in weights]
    for scale in (1.0, 0.01, 1.0):
        gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            direction = gradient
            if weight.ndim > 1:
                trust = 1.0
                if weight.norm() > 0:
                    trust = eta * weight.norm() / (gradient.norm() + weight_decay * weight.norm())
                    trust = min(trust / lr, 1.0) if clip_lr else trust
                direction = trust * (gradient + weight_decay * weight)
            velocity[i] = momentum * velocity[i] + direction
            weights[i] = weight - lr * velocity[i]
    for parameter, weight in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-14)


def test_adamw_decays_matrices_and_kernels_only() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw(module, lr=0.1, weight_decay=0.5).step()
    for name, parameter in module.named_parameters():
        factor = 0.95 if name == "0.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_schedule_is_the_closed_form() -> None:
    factors = [warmup_cosine(step, 4, 20) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[12] == pytest.approx(0.5)
    assert factors[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 16)))
    assert warmup_cosine(0, 0, 10) == 1.0
    assert warmup_cosine(20, 4, 20) == pytest.approx(0.0)
