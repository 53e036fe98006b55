import pytest
import torch

from monosem.data.rows import spread_rows


@pytest.mark.parametrize(
    ("n", "most", "length", "expected"),
    [
        (3, 4, 2, [0, 1, 2]),
        (4, 4, 2, [0, 1, 2, 3]),
        (5, 4, 2, [0, 1, 3, 4]),
        (20, 6, 2, [0, 1, 9, 10, 18, 19]),
        (20, 3, 1, [0, 9, 19]),
    ],
)
def test_all_rows_or_some_evenly_spaced(n: int, most: int, length: int, expected: list[int]) -> None:
    assert spread_rows(n, most, length).tolist() == expected


@pytest.mark.parametrize("n", [1025, 1500, 10**6])
def test_no_row_is_taken_twice_and_sorted_classes_are_all_met(n: int) -> None:
    rows = spread_rows(n, 1024, 8)
    assert len(rows) == 1024
    assert (rows.diff() > 0).all()
    assert int(rows[-1]) == n - 1
    assert len(torch.unique(rows * 100 // n)) == 100
