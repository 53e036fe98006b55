import math

import pytest
import torch

from monosem.core.nonlinearities import NONLINEARITIES, rep_relu

NON_NEGATIVE = ("relu", "rep_relu", "sigmoid", "softplus", "exp")


def test_rep_relu_has_the_value_of_relu_and_the_gradient_of_gelu() -> None:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    y = rep_relu(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    for value, out, slope in zip(x.tolist(), y.tolist(), gradient.tolist(), strict=True):
        cdf = 0.5 * (1 + math.erf(value / math.sqrt(2)))
        density = math.exp(-(value**2) / 2) / math.sqrt(2 * math.pi)
        assert out == max(value, 0.0)
        assert slope == pytest.approx(cdf + value * density, abs=1e-12)


@pytest.mark.parametrize("name", NON_NEGATIVE)
def test_values_are_never_negative(name: str) -> None:
    x = torch.cat([torch.linspace(-80, 80, 1001), torch.tensor([0.0, -0.0])])
    assert (NONLINEARITIES[name](x) >= 0).all()
