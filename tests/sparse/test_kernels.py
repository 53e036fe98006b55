import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monosem.sparse.kernels import topk_relu


@settings(deadline=None, max_examples=60)
@given(
    values=arrays("float32", (4, 6), elements=st.integers(-3, 3).map(float)),
    k=st.integers(1, 8),
)
def test_the_k_largest_positive_values_stay_where_they_were(values: object, k: int) -> None:
    rows = torch.as_tensor(values)
    codes = topk_relu(rows, k)
    for row, code in zip(rows, codes, strict=True):
        largest = sorted(row.tolist(), reverse=True)[:k]
        assert sorted(v for v in code.tolist() if v) == sorted(v for v in largest if v > 0)
        assert torch.equal(code[code > 0], row[code > 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_reach_the_active_values_alone(dtype: torch.dtype) -> None:
    values = torch.randn(5, 9, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    codes = topk_relu(values, 3)
    codes.sum().backward()
    assert torch.equal(values.grad, (codes > 0).to(dtype))
    assert 0 < int((codes > 0).sum()) <= 15


def test_ties_keep_their_gradient() -> None:
    values = torch.ones(2, 4, requires_grad=True)
    topk_relu(values, 2).sum().backward()
    assert values.grad.sum(dim=1).tolist() == [2, 2]
