from collections.abc import Iterator

import pytest
import torch

from monosem.sparse import onednn
from monosem.sparse.batch_codes import forms_on


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    onednn.available.cache_clear()
    yield
    onednn.available.cache_clear()


@pytest.mark.skipif(not onednn.available(), reason="this PyTorch has no product by oneDNN")
@pytest.mark.parametrize(("rows", "width", "latents"), [(1, 1, 1), (7, 33, 65), (100, 64, 300)])
def test_it_is_the_product(rows: int, width: int, latents: int) -> None:
    random = torch.Generator().manual_seed(width)
    x, weight, bias = (
        torch.randn(n, generator=random) for n in ((rows, width), (latents, width), (latents,))
    )
    torch.testing.assert_close(onednn.encode(x, weight, bias), x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    # Rows out of a larger matrix, as the processes' parts of a batch are.
    wide = torch.randn(rows, 2 * width, generator=random)[:, ::2]
    torch.testing.assert_close(
        onednn.encode(wide, weight, bias), wide @ weight.T + bias, rtol=1e-4, atol=1e-4
    )


@pytest.mark.skipif(not onednn.available(), reason="this PyTorch has no product by oneDNN")
@pytest.mark.parametrize("at_once", [1, 250, 700])
def test_large_outputs_are_made_piece_by_piece(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_OUTPUTS_AT_ONCE", at_once)
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=random) for shape in ((7, 20), (100, 20), (100,)))
    room = torch.full((7, 100), torch.nan)
    for found in (onednn.encode(x, weight, bias), onednn.encode(x, weight, bias, room)):
        torch.testing.assert_close(found, x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert room.isnan().any() == (at_once == 700)  # where one piece is all, it stays where it was made


def test_double_precision_goes_the_plain_way_into_the_room_it_is_given() -> None:
    x, weight, bias = torch.ones(2, 3).double(), torch.ones(4, 3).double(), torch.ones(4).double()
    room = torch.empty(2, 4, dtype=torch.float64)
    assert onednn.encode(x, weight, bias, room) is room
    assert (room == 4).all()


@pytest.mark.parametrize("instead", ["is missing", "takes something else", "gives something else"])
def test_a_pytorch_without_it_does_without(instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if instead == "is missing":
            raise AttributeError(instead)
        if instead == "takes something else":
            raise RuntimeError(instead)
        return torch.zeros(len(x), len(weight))

    monkeypatch.setattr(onednn, "_product", product)
    x, weight, bias = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
    assert (onednn.encode(x, weight, bias) == 4).all()
    assert "onednn" not in forms_on(torch.device("cpu"))


def test_products_with_codes_that_are_there_know_no_such_form() -> None:
    every = forms_on(torch.device("cpu"))
    if "onednn" not in every:
        pytest.skip("no such form here")
    assert forms_on(torch.device("cpu"), encoding=False) == [form for form in every if form != "onednn"]
