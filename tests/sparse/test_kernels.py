from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils.file_baton import FileBaton

from monosem.sparse import kernels, operators
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


PLACES = [
    kernels,
    pytest.param(
        operators,
        marks=pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}"),
    ),
]
"""Where the same operations are written: in PyTorch, and compiled."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("width", "k"), [(1, 1), (7, 7), (10, 3), (97, 1), (1000, 5), (1000, 130), (3001, 32)]
)
def test_the_k_largest_and_where_they_are(place: Any, width: int, k: int) -> None:
    rows = torch.randn(9, width, generator=torch.Generator().manual_seed(width))
    values, columns = place.topk(rows, k)
    assert torch.equal(values, rows.gather(1, columns))
    assert torch.equal(values.sort(descending=True).values, rows.sort(descending=True).values[:, :k])
    assert all(len(set(some)) == k for some in columns.tolist())


@pytest.mark.parametrize("place", PLACES)
def test_equal_values_fill_the_k_places_once(place: Any) -> None:
    rows = torch.tensor([[1.0] * 300, [0.0] * 299 + [2.0]])
    values, columns = place.topk(rows, 4)
    assert values.sort().values.tolist() == [[1, 1, 1, 1], [0, 0, 0, 2]]
    assert all(len(set(some)) == 4 for some in columns.tolist())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dim", [1, 63, 64, 200])
def test_weighted_rows_and_dots_are_those_written_out(place: Any, dim: int) -> None:
    random = torch.Generator().manual_seed(dim)
    table, left = torch.randn(50, dim, generator=random), torch.randn(6, dim, generator=random)
    offsets = torch.tensor([0, 4, 4, 11, 12, 40, 40])  # some have no rows
    index = torch.randint(50, (40,), generator=random)
    weights = torch.randn(40, generator=random)
    sums = place.weighted_rows(table, index, offsets, weights)
    for n, (start, end) in enumerate(pairwise(offsets.tolist())):
        expected = sum((weights[e] * table[index[e]] for e in range(start, end)), torch.zeros(dim))
        torch.testing.assert_close(sums[n], expected, rtol=1e-4, atol=1e-5)
    before = torch.randn(6, dim, generator=random)
    there = before.clone()
    assert place.weighted_rows(table, index, offsets, weights, there, beta=0.9) is there
    torch.testing.assert_close(there, 0.9 * before + sums, rtol=1e-4, atol=1e-5)
    rows = torch.randint(6, (40,), generator=random)
    dots = place.row_dots(left, rows, table, index)
    expected = torch.stack([left[r] @ table[i] for r, i in zip(rows, index, strict=True)])
    torch.testing.assert_close(dots, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
def test_tables_wider_than_a_tile_are_summed_the_same() -> None:
    """Columns in tiles that fit the cache: many rows of many columns."""
    random = torch.Generator().manual_seed(0)
    table = torch.randn(1000, 777, generator=random)
    index, weights = torch.randint(1000, (600,), generator=random), torch.randn(600, generator=random)
    offsets = torch.arange(0, 601, 20)
    expected = kernels.weighted_rows(table, index, offsets, weights)
    torch.testing.assert_close(
        operators.weighted_rows(table, index, offsets, weights), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("place", PLACES)
def test_without_room_there_is_nothing_to_add_to(place: Any) -> None:
    table, weights = torch.eye(3, 80), torch.tensor([2.0, 3.0])
    index, offsets = torch.tensor([1, 2]), torch.tensor([0, 1, 2])
    for _ in range(20):  # memory that was used before is seldom all zeros
        torch.full((2, 80), 7.0)
        sums = place.weighted_rows(table, index, offsets, weights, beta=1.0)
        assert torch.equal(sums, weights[:, None] * table[1:])


@pytest.mark.parametrize("place", PLACES)
def test_room_that_is_not_in_one_piece_is_added_to_all_the_same(place: Any) -> None:
    table, weights = torch.eye(3, 80), torch.tensor([2.0, 3.0])
    index, offsets = torch.tensor([1, 2]), torch.tensor([0, 1, 2])
    room = torch.ones(80, 2).T
    sums = place.weighted_rows(table, index, offsets, weights, room, beta=0.5)
    assert torch.equal(room, 0.5 + weights[:, None] * table[1:])
    assert torch.equal(sums, room)


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
def test_tables_without_columns_have_sums_and_dots_too() -> None:
    index, offsets = torch.tensor([1, 2]), torch.tensor([0, 1, 2])
    assert operators.weighted_rows(torch.zeros(3, 0), index, offsets, torch.ones(2)).shape == (2, 0)
    assert operators.row_dots(torch.zeros(3, 0), index, torch.zeros(3, 0), index).tolist() == [0, 0]
    none = torch.zeros(0, dtype=torch.int64)
    assert operators.weighted_rows(torch.zeros(0, 5), none, torch.tensor([0, 0]), torch.ones(0)).sum() == 0
    assert operators.row_dots(torch.zeros(0, 5), none, torch.zeros(0, 5), none).shape == (0,)


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.ones(1)}, "weights and index must have one length"),
        ({"offsets": torch.tensor([0, 1, 3])}, "offsets must go from 0 to 2"),
        ({"offsets": torch.tensor([0, 1, 1])}, "offsets must go from 0 to 2"),
        ({"offsets": torch.tensor([1, 1, 2])}, "offsets must go from 0 to 2"),
        ({"offsets": torch.tensor([0, 3, 2])}, "offsets must not fall"),
        ({"index": torch.tensor([1, 3])}, r"index must lie in 0\.\.2"),
        ({"index": torch.tensor([-1, 2])}, r"index must lie in 0\.\.2"),
        ({"table": torch.zeros(0, 5)}, "index must lie in"),
        ({"index": torch.tensor([[1, 2]])}, "vectors"),
        ({"out": torch.zeros(3, 5)}, "a row for each bag"),
        ({"out": torch.zeros(2, 4)}, "a row for each bag"),
    ],
)
def test_no_sum_reads_what_is_not_there(change: dict[str, torch.Tensor], message: str) -> None:
    fitting = {
        "table": torch.ones(3, 5),
        "index": torch.tensor([1, 2]),
        "offsets": torch.tensor([0, 1, 2]),
        "weights": torch.ones(2),
    }
    assert operators.weighted_rows(**fitting).tolist() == [[1] * 5] * 2
    with pytest.raises(RuntimeError, match=message):
        operators.weighted_rows(**fitting | change)


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": torch.ones(4, 6)}, "left and right must have one width"),
        ({"rows": torch.tensor([1])}, "rows and columns must have one length"),
        ({"rows": torch.tensor([1, 3])}, r"rows must lie in 0\.\.2"),
        ({"columns": torch.tensor([-1, 3])}, r"columns must lie in 0\.\.3"),
        ({"columns": torch.tensor([[1, 3]])}, "vectors"),
    ],
)
def test_no_dot_product_reads_what_is_not_there(change: dict[str, torch.Tensor], message: str) -> None:
    fitting = {
        "left": torch.ones(3, 5),
        "rows": torch.tensor([1, 2]),
        "right": torch.ones(4, 5),
        "columns": torch.tensor([3, 0]),
    }
    assert operators.row_dots(**fitting).tolist() == [5, 5]
    with pytest.raises(RuntimeError, match=message):
        operators.row_dots(**fitting | change)


def test_what_the_operators_were_not_written_for_goes_the_plain_way() -> None:
    double = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, _ = operators.topk(double, 3)
    assert values.dtype == torch.float64
    assert torch.equal(values.sort(descending=True).values, double.sort(descending=True).values[:, :3])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Operators that are next to nothing, and none built yet: where they would be."""
    source = tmp_path / "nothing.cpp"
    source.write_text("int nothing;")
    monkeypatch.setattr(operators, "_SOURCE", source)
    monkeypatch.setattr(operators, "why_not", lambda: "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    operators.compiled.cache_clear()
    yield tmp_path / "built"
    operators.compiled.cache_clear()


def test_a_compiler_that_fails_is_told_of_and_done_without(elsewhere: Path) -> None:
    operators._SOURCE.write_text("this is no C++;")
    rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"nothing\.cpp was not compiled .* plain PyTorch is used instead"):
        values, _ = operators.topk(rows, 3)
    assert torch.equal(values.sort(descending=True).values, rows.sort(descending=True).values[:, :3])


def test_a_cache_that_cannot_be_written_is_done_without(elsewhere: Path) -> None:
    elsewhere.write_text("a file, and no folder")
    with pytest.warns(UserWarning, match=r"was not compiled .*Not a directory.* plain PyTorch is used"):
        assert operators.compiled() is None


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
def test_a_build_is_announced_once_and_not_where_it_is_there(elsewhere: Path) -> None:
    said: list[str] = []
    operators.announce(said.append)
    assert len(said) == 1
    assert "once: about half a minute" in said[0]
    assert operators.compiled() is not None
    operators.compiled.cache_clear()  # as in the next process
    operators.announce(said.append)
    operators._SOURCE.write_text("this is no C++;")
    with pytest.warns(UserWarning, match="was not compiled"):
        assert operators.compiled() is None
    operators.announce(said.append)  # it is not tried again
    assert len(said) == 1


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
def test_a_build_that_was_killed_holds_up_no_other(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(baton: FileBaton) -> None:
        raise AssertionError(f"{baton.lock_file_path} would be waited for for ever")

    monkeypatch.setattr(FileBaton, "wait", waits)
    assert operators.compiled() is not None
    (folder,) = elsewhere.iterdir()
    (folder / "lock").touch()  # as PyTorch leaves it when it is killed
    operators.compiled.cache_clear()
    assert operators.compiled() is not None


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
def test_one_process_builds_at_a_time(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert operators.compiled() is not None
    (folder,) = elsewhere.iterdir()
    operators.compiled.cache_clear()
    monkeypatch.setattr(operators, "_PATIENCE", 0.1)
    with (
        FileLock(folder / "monosem.lock"),
        pytest.warns(UserWarning, match="could not be acquired.* plain PyTorch is used"),
    ):
        assert operators.compiled() is None


def test_the_switch_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(operators.SWITCH, "0")
    operators.compiled.cache_clear()
    try:
        assert operators.compiled() is None
        assert operators.why_not() == "MONOSEM_OPERATORS=0"
    finally:
        operators.compiled.cache_clear()


@pytest.mark.skipif(bool(operators.why_not()), reason=f"none built: {operators.why_not()}")
@pytest.mark.parametrize("places", [[0], [5, 299], list(range(300))])
def test_values_that_are_no_numbers_do_no_harm(places: list[int]) -> None:
    rows = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    rows[1, places] = torch.nan
    _, columns = operators.topk(rows, 4)
    assert all(len(set(some)) == 4 for some in columns.tolist())
    assert int(columns.min()) >= 0
    assert int(columns.max()) < 300
