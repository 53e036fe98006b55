"""Features and labels in .npy files of others: the same set as from memory, and all that is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import InputError
from monosem.data import npy_features, shard_file
from monosem.data.feature_set import FeatureSet
from monosem.data.npy_features import open_features

N, DIM = 50, 6
TABLE = np.random.default_rng(0).normal(size=(N, DIM))
LABELS = np.arange(N) % 4


def written(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def touch(path: Path) -> None:
    """As if somebody had written to it now: clocks of file systems tick only so often."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_a_file_is_the_set_of_its_contents(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_features, "BLOCK_ROWS", 7)
    monkeypatch.setattr(shard_file, "_CONVERTED_BYTES", 3 * DIM * 8)
    features = TABLE.astype(kind)
    expected = FeatureSet.from_arrays(features, LABELS)
    expected.save(tmp_path / "set")
    opened = open_features(
        written(tmp_path / "mine.npy", features), written(tmp_path / "y.npy", LABELS.astype(np.uint8))
    )
    assert (opened.name, opened.dim, len(opened), opened.is_on_disk) == ("mine", DIM, N, True)
    assert opened.fingerprint == expected.fingerprint == open_features(tmp_path / "set").fingerprint
    del opened.__dict__["fingerprint"]  # and again, from what is stored
    assert opened.fingerprint == expected.fingerprint
    assert (opened.labels.dtype, opened.ids.dtype) == (np.int64, np.int64)
    np.testing.assert_array_equal(opened.labels, LABELS)
    np.testing.assert_array_equal(opened.ids, np.arange(N))
    np.testing.assert_array_equal(opened.dense(), expected.dense())
    assert opened.nbytes == expected.nbytes == opened.in_memory().nbytes
    rows = np.random.default_rng(1).integers(0, N, 90)
    np.testing.assert_array_equal(opened.take(rows), expected.dense()[rows])


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, N), n=st.integers(0, N), at_once=st.integers(1, 9))
def test_rows_are_converted_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, first: int, n: int, at_once: int
) -> None:
    opened = open_features(written(tmp_path_factory.mktemp("npy") / "x.npy", TABLE))
    out = opened.empty_block(min(n, N - first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_file, "_CONVERTED_BYTES", at_once * DIM * 8)
        opened.read_into(min(first, N - 1), out[:0])
        if len(out):
            opened.read_into(first, out)
    np.testing.assert_array_equal(out.values, TABLE[first : first + n].astype(np.float32))


def test_without_labels_every_label_is_none(tmp_path: Path) -> None:
    opened = open_features(written(tmp_path / "x.npy", TABLE.astype(np.float32)))
    assert set(opened.labels) == {-1}


def test_a_large_file_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    empty = np.empty

    def counted(shape: Any, *more: Any, **named: Any) -> np.ndarray:
        nonlocal largest
        array = empty(shape, *more, **named)
        largest = max(largest, array.nbytes)
        return array

    path = written(tmp_path / "x.npy", np.ones((5000, 8), np.float32))
    monkeypatch.setattr(npy_features, "BLOCK_ROWS", 100)
    monkeypatch.setattr(np, "empty", counted)
    opened = open_features(path)
    for _ in opened.blocks(100):
        pass
    assert 0 < largest <= 100 * 8 * 4


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.array([["a", None]], dtype=object), "holds pickled objects, which are never read"),
        (np.arange(6).reshape(2, 3), "holds int64, features are floats"),
        (TABLE.astype(complex), "holds complex128, features are floats"),
        (TABLE[0], r"holds an array \[6\], features are \[N, D\]"),
        (TABLE[None], r"holds an array \[1, 50, 6\], features are \[N, D\]"),
        (TABLE[:0], r"holds an array \[0, 6\]"),
        (np.asfortranarray(TABLE), r"stored column by column; save numpy\.ascontiguousarray"),
    ],
)
def test_arrays_that_are_no_features_are_refused(tmp_path: Path, features: np.ndarray, message: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, features, allow_pickle=True)
    with pytest.raises(InputError, match=rf"x\.npy: {message}"):
        open_features(path)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.nan, np.float32, "feature value nan in row 41, column 4 is not finite"),
        (-np.inf, np.float16, "feature value -inf in row 41, column 4 is not finite"),
        (1e300, np.float64, r"feature value 1e\+300 in row 41, column 4 does not fit float32"),
    ],
)
def test_values_at_fault_are_named_with_row_and_column(
    tmp_path: Path, value: float, kind: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_features, "BLOCK_ROWS", 20)
    features = TABLE.astype(kind)
    features[41, 4] = value
    with pytest.raises(InputError, match=rf"x\.npy: {message}"):
        open_features(written(tmp_path / "x.npy", features))


def test_files_that_are_no_arrays_or_cut_short_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npy", TABLE.astype(np.float32))
    content = path.read_bytes()
    for other in (b"", b"PK\x03\x04 an archive", content[:20]):
        path.write_bytes(other)
        with pytest.raises(InputError, match=r"x\.npy: no \.npy file; write one with numpy\.save"):
            open_features(path)
    for other in (content[:-1], content + b"1"):
        path.write_bytes(other)
        with pytest.raises(
            InputError, match=rf"x\.npy: {len(other):,} bytes long, not the 1,328 of its 50 rows"
        ):
            open_features(path)


def test_a_wrong_path_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; features are a \.npy file"):
        open_features(tmp_path / "nowhere")
    path = written(tmp_path / "x.npy", TABLE)
    with pytest.raises(InputError, match=r"x\.npy: a file; monosem\.open_features reads \.npy files"):
        FeatureSet.open(path)
    with pytest.raises(InputError, match="nowhere: no such folder; a feature set is a folder that"):
        FeatureSet.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], r"holds int64 \[49\]; the rows of .*x\.npy need integers \[50\]"),
        (LABELS[:, None], r"holds int64 \[50, 1\]"),
        (LABELS / 2, r"holds float64 \[50\]"),
        (LABELS.astype(str), r"holds <U21 \[50\]"),
        (np.where(LABELS == 3, -1, LABELS), "label -1 in row 3; number the classes from 0 on"),
        (
            np.where(LABELS == 3, np.uint64(2**63), np.uint64(0)),
            "label 9223372036854775808 of row 3 does not fit int64",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    path = written(tmp_path / "x.npy", TABLE)
    with pytest.raises(InputError, match=rf"y\.npy: {message}"):
        open_features(path, written(tmp_path / "y.npy", labels))


def test_label_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path, labels = written(tmp_path / "x.npy", TABLE), written(tmp_path / "y.npy", LABELS)
    content = labels.read_bytes()
    for other, message in ((b"1\n2\n", r"no \.npy file"), (content[:-5], "cut short")):
        labels.write_bytes(other)
        with pytest.raises(InputError, match=rf"y\.npy: {message}"):
            open_features(path, labels)
    with pytest.raises(InputError, match=r"nowhere: no such file; labels are a \.npy file"):
        open_features(path, tmp_path / "nowhere")
    FeatureSet.from_arrays(TABLE, LABELS).save(tmp_path / "set")
    with pytest.raises(InputError, match=r"y\.npy: .*set is a feature set with labels of its own"):
        open_features(tmp_path / "set", labels)


def gone(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("change", "message"), [(gone, "no such file"), (cut_short, "changed"), (touch, "changed")]
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_file_that_is_changed_is_named_at_the_next_read(
    tmp_path: Path, change: Any, message: str, kind: Any
) -> None:
    path = written(tmp_path / "x.npy", TABLE.astype(kind))
    opened = open_features(path)
    change(path)
    for read in (opened.dense, lambda: opened.take(np.array([2])), opened.check_unchanged):
        with pytest.raises(InputError, match=rf"x\.npy: {message}"):
            read()
