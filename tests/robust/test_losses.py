import math

import pytest
import torch

from monosem.robust.losses import LOSSES, symmetric_cross_entropy


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_autograd(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(4, 3, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (4, 3), generator=generator)
    leaf = logits.clone().requires_grad_()
    LOSSES[name](leaf, labels).sum().backward()
    torch.testing.assert_close(LOSSES[name].gradient_(logits, labels), leaf.grad, rtol=1e-12, atol=1e-14)


def test_cross_entropy_is_torchs() -> None:
    logits = torch.linspace(-30, 30, 15).reshape(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(LOSSES["cross_entropy"](logits, labels), expected)


def test_symmetric_cross_entropy_as_its_authors_write_it() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0, 0.0], [4.0, 0.1, -3.0, 0.5]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    for row, label, loss in zip(
        logits, labels, symmetric_cross_entropy(0.7, 1.3)(logits, labels), strict=True
    ):
        p = row.softmax(0)
        log_y = [0.0 if k == label else -4.0 for k in range(4)]
        reverse = -sum(p[k].item() * log_y[k] for k in range(4))
        assert loss.item() == pytest.approx(-0.7 * math.log(p[label]) + 1.3 * reverse, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    labels = torch.tensor([1])
    assert LOSSES[name](logits, labels).isfinite().all()
    assert LOSSES[name].gradient_(logits, labels).isfinite().all()
