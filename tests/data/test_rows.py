import pytest

from monosem.data.rows import stretches


@pytest.mark.parametrize(
    ("n", "most", "expected"),
    [
        (10, 10, [range(4), range(4, 8), range(8, 10)]),
        (10, 99, [range(4), range(4, 8), range(8, 10)]),
        (20, 10, [range(4), range(8, 12), range(16, 20)]),
        (21, 10, [range(4), range(12, 16)]),
    ],
)
def test_all_rows_or_some_evenly_spaced(n: int, most: int, expected: list[range]) -> None:
    assert stretches(n, most, length=4) == expected
