"""What Triton's programs compute, against the plain products and the dense form.

`test_triton` runs this file in a process of its own: by Triton's interpreter where there is no GPU, which
Triton must know before it is imported.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from test_gradients import ACTIVATIONS, VARIANCE, example
from torch import Tensor

from monosem.sparse import kernels, triton_kernels
from monosem.sparse.batch_codes import FORMS
from monosem.sparse.gradients import gradients


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the programs can run."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setattr(triton_kernels, "available", triton_kernels._run_on)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 100, 128, 600])
def test_products_are_the_plain_ones(device: torch.device, dim: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(dim)
    table, left = torch.randn(9, dim, generator=random), torch.randn(4, dim, generator=random)
    weights, before = torch.randn(30, generator=random), torch.randn(4, dim, generator=random)
    offsets = torch.tensor([0, 3, 3, 11, 30])  # one has no rows, one just as many as are read at once
    index, rows = torch.randint(1, 9, (30,), generator=random), torch.randint(4, (30,), generator=random)
    table[0] = torch.nan  # in no bag
    table, left, weights, before = (some.to(dtype).float() for some in (table, left, weights, before))
    sums = kernels.weighted_rows(table, index, offsets, weights)
    dots = kernels.row_dots(left, rows, table, index)
    added = 0.9 * before + sums

    table, left, weights, before = (some.to(device, dtype) for some in (table, left, weights, before))
    index, rows, offsets = index.to(device), rows.to(device), offsets.to(device)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}

    def same(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found.cpu(), expected.to(dtype), **near)

    same(triton_kernels.weighted_rows(table, index, offsets, weights), sums)
    same(triton_kernels.row_dots(left, rows, table, index), dots)
    unwritten = torch.full_like(before, torch.nan)
    assert triton_kernels.weighted_rows(table, index, offsets, weights, unwritten) is unwritten
    same(unwritten, sums)
    assert triton_kernels.weighted_rows(table, index, offsets, weights, before, beta=0.9) is before
    same(before, added)


def test_indices_may_be_views(device: torch.device) -> None:
    """Programs are given addresses, and step over them by one."""
    random = torch.Generator().manual_seed(0)
    table, pairs = torch.randn(9, 20, generator=random), torch.randint(9, (12, 2), generator=random)
    offsets, weights = torch.tensor([0, 0, 7, 0, 12, 0])[::2], torch.randn(12, generator=random)
    expected = kernels.weighted_rows(table, pairs[:, 1].contiguous(), offsets.contiguous(), weights)
    dots = kernels.row_dots(table, pairs[:, 0], table, pairs[:, 1])
    table, pairs, offsets, weights = (some.to(device) for some in (table, pairs, offsets, weights))
    found = triton_kernels.weighted_rows(table, pairs[:, 1], offsets, weights)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    found = triton_kernels.row_dots(table, pairs[:, 0], table, pairs[:, 1])
    torch.testing.assert_close(found.cpu(), dots, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dead", [[], [0, 3, 5, 8, 9]])
@pytest.mark.parametrize("prefixes", [(), (2, 7)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_dense_form(
    device: torch.device,
    dead: list[int],
    prefixes: tuple[int, ...],
    activation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae, z = example(prefixes=prefixes, **ACTIVATIONS[activation])
    sae, z = sae.float().to(device), z.float().to(device)
    for plain in ("weighted_rows", "row_dots"):  # neither form takes these here
        monkeypatch.delattr(kernels, plain)
    found: dict[str, dict[str, Any]] = {}
    for form in ("dense", "triton"):
        step = gradients(
            sae, z, torch.tensor(dead, dtype=torch.int64, device=device), VARIANCE, form=FORMS[form]
        )
        found[form] = {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}
        found[form] |= vars(step)
    for name, expected in found["dense"].items():
        torch.testing.assert_close(found["triton"][name], expected, rtol=1e-4, atol=1e-5, msg=name)
