"""Triton's products against those written out: on a GPU, or by Triton's interpreter where there is none."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for GPUs")

from monosem.sparse import kernels, triton_kernels


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where the programs can run."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_kernels, "available", lambda device: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    sys.modules.pop("monosem.sparse.triton_programs", None)
    triton_kernels._programs.cache_clear()
    yield torch.device("cpu")
    sys.modules.pop("monosem.sparse.triton_programs", None)
    triton_kernels._programs.cache_clear()


@pytest.mark.parametrize("dim", [1, 100, 256, 300])
def test_products_are_the_plain_ones(device: torch.device, dim: int) -> None:
    random = torch.Generator().manual_seed(dim)
    table, left = torch.randn(9, dim, generator=random), torch.randn(4, dim, generator=random)
    offsets, index = torch.tensor([0, 3, 3, 10]), torch.randint(9, (10,), generator=random)
    weights, rows = torch.randn(10, generator=random), torch.randint(4, (10,), generator=random)
    expected = (
        kernels.weighted_rows(table, index, offsets, weights),
        kernels.row_dots(left, rows, table, index),
    )
    there = [some.to(device) for some in (table, index, offsets, weights, left, rows)]
    sums = triton_kernels.weighted_rows(*there[:4])
    dots = triton_kernels.row_dots(there[4], there[5], there[0], there[1])
    torch.testing.assert_close(sums.cpu(), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dots.cpu(), expected[1], rtol=1e-4, atol=1e-5)


def test_what_was_not_written_for_triton_goes_the_plain_way() -> None:
    double = torch.ones(3, 5, dtype=torch.float64)
    offsets, index, weights = torch.tensor([0, 2]), torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)
    assert torch.equal(
        triton_kernels.weighted_rows(double, index, offsets, weights), torch.full((1, 5), 2.0).double()
    )
