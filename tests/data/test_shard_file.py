"""Rows of .npy files read by plain reads: against numpy, and everything that may be wrong with a file."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import InputError
from monosem.data.shard_file import KINDS, ShardFile, Stamp

N, WIDTH = 20, 3
TABLE = np.random.default_rng(0).normal(size=(N, WIDTH))


def written(folder: Path, table: np.ndarray) -> Path:
    path = folder / "values-00000.npy"
    np.save(path, table)
    return path


def opened(folder: Path, table: np.ndarray) -> ShardFile:
    part = "values" if table.dtype.kind == "f" else "indices"
    return ShardFile.open(written(folder, table), table.shape, KINDS[part])


def touch(path: Path) -> None:
    """As if somebody had written to it now: clocks of file systems tick only so often."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ShardFile:
    return opened(tmp_path_factory.mktemp("shard"), TABLE.astype(np.float32))


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), max_size=2 * N))
def test_rows_by_number_are_those_of_numpy(shared: ShardFile, rows: list[int]) -> None:
    numbers = np.array(rows, dtype=np.int64)
    np.testing.assert_array_equal(shared[numbers], TABLE.astype(np.float32)[numbers])
    np.testing.assert_array_equal(shared[np.sort(numbers)], TABLE.astype(np.float32)[np.sort(numbers)])


@settings(deadline=None)
@given(
    bounds=st.tuples(*[st.none() | st.integers(-N - 3, N + 3)] * 2), step=st.sampled_from([None, 1, 2, -1])
)
def test_slices_are_those_of_numpy(
    shared: ShardFile, bounds: tuple[int | None, int | None], step: int | None
) -> None:
    rows = slice(*bounds, step)
    np.testing.assert_array_equal(shared[rows], TABLE.astype(np.float32)[rows])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int32])
def test_every_kind_keeps_its_bits(tmp_path: Path, kind: Any) -> None:
    table = (100 * TABLE).astype(kind)
    file = opened(tmp_path, table)
    assert (len(file), file.shape, file.dtype, file.nbytes) == (N, (N, WIDTH), table.dtype, table.nbytes)
    np.testing.assert_array_equal(file[:], table)
    into = np.empty((4, WIDTH), kind)
    file.read_into(7, into)
    np.testing.assert_array_equal(into, table[7:11])
    assert file[:].flags.writeable


def test_neighbouring_rows_come_with_one_read(shared: ShardFile, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    fill = ShardFile._fill

    def counted(self: ShardFile, stream: Any, first: int, out: np.ndarray) -> None:
        reads.append((first, len(out)))
        fill(self, stream, first, out)

    monkeypatch.setattr(ShardFile, "_fill", counted)
    shared[np.array([9, 3, 8, 4, 3, 5, 19])]
    assert reads == [(3, 1), (3, 3), (8, 2), (19, 1)]


def test_rows_outside_the_file_are_refused(shared: ShardFile) -> None:
    for rows in ([0, N], [-1, 0]):
        with pytest.raises(IndexError, match=f"there are 0 to {N - 1}"):
            shared[np.array(rows)]
    with pytest.raises(IndexError, match="asked for"):
        shared.read_into(N - 1, np.empty((2, WIDTH), np.float32))


def test_threads_read_side_by_side(shared: ShardFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        for row, found in enumerate(pool.map(lambda row: shared[row % N : row % N + 1], range(200))):
            np.testing.assert_array_equal(found[0], TABLE.astype(np.float32)[row % N])


def test_files_that_are_not_what_the_set_says_are_refused(tmp_path: Path) -> None:
    kinds = KINDS["values"]
    for table, message in (
        (
            TABLE.astype(np.float32)[:-1],
            r"holds float32 \[19, 3\] where the set has float16 or float32 \[20, 3\]",
        ),
        (TABLE, r"holds float64 \[20, 3\]"),
        (np.asfortranarray(TABLE.astype(np.float32)), "make the set again"),
    ):
        with pytest.raises(InputError, match=message):
            ShardFile.open(written(tmp_path, table), (N, WIDTH), kinds)
    path = written(tmp_path, TABLE.astype(np.float16))
    for content in (b"", b"not an array, but as long as the header of one", path.read_bytes()[:20]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"values-00000\.npy: no \.npy file that monosem wrote"):
            ShardFile.open(path, (N, WIDTH), kinds)
    path = written(tmp_path, TABLE.astype(np.float16))
    for content in (path.read_bytes()[:-1], path.read_bytes() + b"1"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{len(content)} bytes long, not the 248 of its 20 rows"):
            ShardFile.open(path, (N, WIDTH), kinds)
    with pytest.raises(InputError, match="nowhere: no such file"):
        ShardFile.open(tmp_path / "nowhere", (N, WIDTH), kinds)
    with pytest.raises(InputError, match="cannot be read"):
        ShardFile.open(tmp_path, (N, WIDTH), kinds)


def gone(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def written_to(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    touch(path)


@pytest.mark.parametrize(
    ("change", "message"), [(gone, "no such file"), (cut_short, "changed"), (written_to, "changed")]
)
def test_a_file_that_is_changed_is_refused_at_the_next_read(
    tmp_path: Path, change: Any, message: str
) -> None:
    file = opened(tmp_path, TABLE.astype(np.float32))
    file.check_unchanged()
    assert len(file[:5]) == 5
    change(file.path)
    for read in (lambda: file[:5], lambda: file[np.array([2])], file.check_unchanged):
        with pytest.raises(InputError, match=rf"values-00000\.npy: {message}"):
            read()


@pytest.mark.parametrize("change", [cut_short, written_to])
def test_a_file_that_is_changed_while_it_is_read_is_refused(
    tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path, TABLE.astype(np.float32))
    fill = ShardFile._fill

    def disturbed(self: ShardFile, *arguments: Any) -> None:
        change(self.path)
        fill(self, *arguments)

    monkeypatch.setattr(ShardFile, "_fill", disturbed)
    with pytest.raises(InputError, match="changed since the feature set was opened"):
        file[:]


def test_a_file_that_changed_before_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE.astype(np.float32))
    stamp = Stamp.of(path.stat())
    assert ShardFile.open(path, (N, WIDTH), KINDS["values"], stamp).stamp == stamp
    touch(path)
    with pytest.raises(InputError, match="changed"):
        ShardFile.open(path, (N, WIDTH), KINDS["values"], stamp)
