from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.measures.blocks import features_shape, row_blocks


def some_codes(n: int = 11, k: int = 3, dim: int = 7) -> tuple[Codes, Tensor]:
    """Codes beside the dense tensor that loops make of them; a row is empty, one holds a column twice."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.rand(n, dim, generator=generator).argsort(1)[:, :k].int()
    values = torch.rand(n, k, generator=generator)
    values[3] = 0
    indices[5] = 2
    dense = torch.zeros(n, dim)
    for row in range(n):
        for column, value in zip(indices[row].tolist(), values[row], strict=True):
            dense[row, column] += value
    return Codes(indices, values, dim), dense


def test_rows_come_out_dense_by_slices_and_by_numbers_in_any_order() -> None:
    codes, dense = some_codes()
    assert torch.equal(codes[:], dense)
    assert torch.equal(codes[4:9], dense[4:9])
    rows = torch.tensor([9, 0, 5, 5, 3])
    assert torch.equal(codes[rows], dense[rows])
    assert (len(codes), codes.shape, codes.nbytes) == (11, (11, 7), 11 * 3 * (4 + 4))
    assert torch.equal(codes.to(torch.device("cpu"))[:], dense)


def test_blocks_of_rows_are_read_as_those_of_the_dense_tensor() -> None:
    codes, dense = some_codes()
    spans, blocks = zip(*row_blocks(codes, rows=4), strict=True)
    assert [(span.start, span.stop) for span in spans] == [(0, 4), (4, 8), (8, 11)]
    assert torch.equal(torch.cat(blocks), dense)
    assert features_shape(codes) == (11, 7)


def test_half_values_are_added_up_in_single_precision() -> None:
    values = torch.tensor([[1.0, 2**-11]])
    for dtype, expected in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        rows = Codes(torch.zeros(1, 2, dtype=torch.int32), values.to(dtype), 1)[:]
        assert rows.dtype == expected
        assert rows.item() == 1 + 2**-11


def test_dense_blocks_are_held_without_loss_however_full_their_rows() -> None:
    _, dense = some_codes()
    signed = dense * torch.tensor([1, -1, 1, -1, 1, -1, 1])
    codes = Codes.from_blocks([signed[:3], signed[3:4], signed[4:]])
    assert codes.indices.dtype == torch.int32
    assert codes.values.shape == (11, 3)
    assert torch.equal(codes[:], signed)
    assert (codes.values.abs().diff(dim=1) <= 0).all()
    assert Codes.from_blocks([torch.zeros(2, 5)])[:].tolist() == np.zeros((2, 5)).tolist()


class Scalars(TorchDispatchMode):
    """How many numbers were handed to the host: each makes it wait for a GPU."""

    read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_rows_are_taken_and_moved_without_a_look_at_them() -> None:
    codes, dense = some_codes()
    rows = torch.tensor([9, 0, 5, 5, 3])
    with Scalars() as scalars:
        taken, moved = codes.take(rows), codes.to(torch.device("cpu"))
        assert scalars.read == 0
        Codes(codes.indices, codes.values, codes.dim)
        assert scalars.read > 0
    assert torch.equal(taken[:], dense[rows])
    assert torch.equal(moved[:], dense)
    assert type(taken) is type(moved) is Codes
    assert taken.dim == moved.dim == 7


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 1], [2, 7]], "code index 7 in row 1 is outside 0..6"),
        ([[0, -1], [0, 0]], "code index -1 in row 0"),
        ([[0], [1]], r"one shape \[N, k\], got \(2, 1\), \(2, 2\)"),
    ],
)
def test_codes_that_fit_no_table_are_refused(indices: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Codes(torch.tensor(indices, dtype=torch.int32), torch.zeros(2, 2), 7)
