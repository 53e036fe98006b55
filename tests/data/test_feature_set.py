"""Feature sets: round trips, blocks across shards, fingerprints, and everything that is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.artifacts import verify_folder
from monosem.core.errors import InputError
from monosem.data import feature_set, feature_writer
from monosem.data.feature_set import FeatureSet, check_same_samples
from monosem.data.feature_writer import FeatureSetWriter

N, DIM, K = 23, 6, 3


def some_features(seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, DIM)).astype(dtype)


def some_codes() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, DIM, (N, K)), generator.random((N, K), dtype=np.float32)


LABELS = np.arange(N) % 4
IDS = np.arange(N) * 7 + 100


def densified(indices: np.ndarray, values: np.ndarray) -> np.ndarray:
    dense = np.zeros((len(indices), DIM), dtype=np.float32)
    for row in range(len(indices)):
        for index, value in zip(indices[row], values[row], strict=True):
            dense[row, index] += value
    return dense


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few rows, so that small sets span several."""
    monkeypatch.setattr(feature_writer, "SHARD_BYTES", 5 * DIM * 4)


def in_pieces(features: np.ndarray, path: Path, rows: int) -> FeatureSet:
    with FeatureSetWriter.to(path, DIM, "pieces") as writer:
        for start in range(0, N, rows):
            piece = slice(start, start + rows)
            writer.append(features[piece], LABELS[piece], IDS[piece])
    return FeatureSet.open(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dense_sets_come_back_from_disk_bit_by_bit(tmp_path: Path, dtype: Any) -> None:
    features = some_features(dtype=dtype)
    made = FeatureSet.from_arrays(torch.from_numpy(features), torch.from_numpy(LABELS), IDS, name="simclr")
    made.save(tmp_path / "set")
    opened = FeatureSet.open(tmp_path / "set")
    for found in (made, opened):
        assert (found.name, found.dim, len(found), found.is_sparse) == ("simclr", DIM, N, False)
        np.testing.assert_array_equal(found.dense(), features.astype(np.float32))
        np.testing.assert_array_equal(found.labels, LABELS)
        np.testing.assert_array_equal(found.ids, IDS)
        assert found.shards[0].values.dtype == dtype
    assert opened.fingerprint == made.fingerprint


def test_places_are_told_by_strings_too_and_what_others_wrote_there_stays(tmp_path: Path) -> None:
    made = FeatureSet.from_arrays(some_features(), LABELS)
    place = str(tmp_path / "set")
    made.save(place)
    with FeatureSetWriter.to(place, DIM) as writer:  # an earlier set may be replaced
        writer.append(some_features(1), LABELS, IDS)
    np.testing.assert_array_equal(FeatureSet.open(place).dense(), some_features(1))
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"set: holds notes\.txt, which would be lost"):
        made.save(place)
    with (
        pytest.raises(InputError, match="would be lost"),
        FeatureSetWriter.to(place, DIM),
    ):
        raise AssertionError("hours of work would be lost")
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"


def test_bfloat16_is_held_as_float32_without_loss() -> None:
    rounded = torch.from_numpy(some_features()).bfloat16()
    np.testing.assert_array_equal(FeatureSet.from_arrays(rounded, LABELS).dense(), rounded.float().numpy())


def test_half_precision_on_disk_is_a_choice(tmp_path: Path) -> None:
    features = some_features()
    FeatureSet.from_arrays(features, LABELS).save(tmp_path / "half", dtype="float16")
    opened = FeatureSet.open(tmp_path / "half")
    np.testing.assert_array_equal(opened.dense(), features.astype(np.float16).astype(np.float32))
    assert opened.fingerprint != FeatureSet.from_arrays(features, LABELS).fingerprint


def test_codes_come_back_from_disk_and_densify_with_repeated_indices_summed(tmp_path: Path) -> None:
    indices, values = some_codes()
    made = FeatureSet.from_codes(indices, values, DIM, LABELS, IDS)
    made.save(tmp_path / "codes")
    opened = FeatureSet.open(tmp_path / "codes")
    for found in (made, opened):
        assert found.is_sparse
        np.testing.assert_allclose(found.dense(), densified(indices, values), rtol=1e-6)
        np.testing.assert_array_equal(found.codes()[0], indices)
        np.testing.assert_array_equal(found.codes()[1], values)
    assert opened.fingerprint == made.fingerprint
    with pytest.raises(InputError, match="dense features have no codes"):
        FeatureSet.from_arrays(some_features(), LABELS).codes()


@pytest.mark.usefixtures("small_shards")
def test_writing_in_pieces_equals_writing_at_once(tmp_path: Path) -> None:
    features = some_features()
    opened = in_pieces(features, tmp_path / "set", rows=2)
    assert len(opened.shards) > 2
    np.testing.assert_array_equal(opened.dense(), features)
    np.testing.assert_array_equal(opened.ids, IDS)
    assert opened.fingerprint == FeatureSet.from_arrays(features, LABELS, IDS).fingerprint
    indices, values = some_codes()
    with FeatureSetWriter.to(tmp_path / "codes", DIM) as writer:
        for row in range(N):
            one = slice(row, row + 1)
            writer.append_codes(indices[one], values[one], LABELS[one], IDS[one])
    sparse = FeatureSet.open(tmp_path / "codes")
    assert len(sparse.shards) > 2
    assert sparse.fingerprint == FeatureSet.from_codes(indices, values, DIM, LABELS, IDS).fingerprint


@settings(max_examples=20, deadline=None)
@given(piece=st.integers(1, N), rows=st.integers(1, N + 3))
def test_blocks_cover_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, piece: int, rows: int
) -> None:
    features = some_features()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_writer, "SHARD_BYTES", 5 * DIM * 4)
        opened = in_pieces(features, tmp_path_factory.mktemp("blocks") / "set", piece)
    end = 0
    for where, block in opened.blocks(rows):
        assert where.start == end
        assert len(block) == where.stop - where.start <= rows
        np.testing.assert_array_equal(torch.from_numpy(block).numpy(), features[where])
        end = where.stop
    assert end == N


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_in_memory_and_on_disk_are_the_same(tmp_path: Path, sparse: bool) -> None:
    made = FeatureSet.from_arrays(some_features(dtype=np.float16), LABELS, IDS)
    if sparse:
        made = FeatureSet.from_codes(*some_codes(), DIM, LABELS, IDS)
    with FeatureSetWriter.to(tmp_path / "set", DIM, dtype=str(made.shards[0].values.dtype)) as writer:
        for row in range(N):
            one = made.shards[0][row : row + 1]
            if one.indices is None:
                writer.append(one.values, LABELS[row : row + 1], IDS[row : row + 1])
            else:
                writer.append_codes(one.indices, one.values, LABELS[row : row + 1], IDS[row : row + 1])
    opened = FeatureSet.open(tmp_path / "set")
    held = opened.in_memory()
    assert len(opened.shards) > 2
    assert (made.is_on_disk, opened.is_on_disk, held.is_on_disk) == (False, True, False)
    assert (
        made.nbytes == opened.nbytes == held.nbytes == sum(a.nbytes for a in made.shards[0].arrays.values())
    )
    rows = np.random.default_rng(1).integers(0, N, 50)
    for found in (made, opened, held):
        np.testing.assert_array_equal(found.take(rows), made.dense()[rows])
        for part, array in made.shards[0].arrays.items():
            into = found.empty_block(N - 3)
            found.read_into(2, into)
            np.testing.assert_array_equal(into.arrays[part], array[2:-1])
            assert into.arrays[part].dtype == array.dtype
        assert found.fingerprint == made.fingerprint
        del found.__dict__["fingerprint"]  # and again, from what is stored
        assert found.fingerprint == made.fingerprint
    assert len(opened.take(rows[:0])) == 0
    with pytest.raises(IndexError):
        opened.take(np.array([N]))


def test_changing_a_block_changes_no_file(tmp_path: Path) -> None:
    opened = in_pieces(some_features(), tmp_path / "set", N)
    for _, block in opened.blocks():
        block += 1.0
    np.testing.assert_array_equal(FeatureSet.open(tmp_path / "set").dense(), some_features())


def test_fingerprints_tell_features_and_samples_apart_but_not_labels() -> None:
    base = FeatureSet.from_arrays(some_features(), LABELS, IDS)
    assert base.fingerprint == FeatureSet.from_arrays(some_features(), (LABELS + 1) % 4, IDS).fingerprint
    changed = some_features()
    changed[N - 1, DIM - 1] += 1e-3
    others = [
        FeatureSet.from_arrays(changed, LABELS, IDS),
        FeatureSet.from_arrays(some_features(), LABELS, IDS[::-1]),
        FeatureSet.from_arrays(some_features().reshape(N * 2, DIM // 2), np.repeat(LABELS, 2)),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_row_and_column(tmp_path: Path, value: float) -> None:
    features = some_features()
    features[17, 4] = value
    with pytest.raises(InputError, match="in row 17, column 4 is not finite"):
        FeatureSet.from_arrays(features, LABELS)
    with pytest.raises(InputError, match="in row 17, column 4 is not finite"):
        in_pieces(features, tmp_path / "set", rows=5)
    assert not list(tmp_path.iterdir())
    indices, values = some_codes()
    values[3, 1] = value
    with pytest.raises(InputError, match="in row 3, column 1 is not finite"):
        FeatureSet.from_codes(indices, values, DIM, LABELS)


def test_infinities_of_both_signs_are_found() -> None:
    features = some_features()
    features[2, 0], features[9, 1] = np.inf, -np.inf
    with pytest.raises(InputError, match="in row 2, column 0"):
        FeatureSet.from_arrays(features, LABELS)


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    features = some_features()
    features[1, 2] = 70_000.0
    made = FeatureSet.from_arrays(features, LABELS)
    with pytest.raises(InputError, match=r"70000\.0 in row 1, column 2 does not fit float16"):
        made.save(tmp_path / "half", dtype="float16")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="float16 or float32, not int8"):
        made.save(tmp_path / "bytes", dtype="int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(N, np.float32)}, r"must be \[N, D\]"),
        ({"features": np.zeros((0, DIM), np.float32), "labels": np.zeros(0, int)}, "not empty"),
        ({"features": np.zeros((N, DIM), int)}, "must be floating point"),
        ({"labels": LABELS[:-1]}, "23 rows of features need 23 integer labels"),
        ({"labels": LABELS + 0.5}, "integer labels, got float64"),
        ({"ids": IDS[:-1]}, "23 integer ids"),
        (
            {"labels": LABELS.astype(np.uint64) + np.uint64(2**63)},
            "label 9223372036854775811 of row 3 does not",
        ),
        (
            {"ids": IDS.astype(">u8") + np.uint64(2**63)},
            "id 9223372036854776062 of row 22 does not fit int64",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureSet.from_arrays(**{"features": some_features(), "labels": LABELS, **change})


def test_codes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    indices, values = some_codes()
    indices[5, 2] = DIM
    with pytest.raises(InputError, match=r"code index 6 in row 5 is outside 0\.\.5"):
        FeatureSet.from_codes(indices, values, DIM, LABELS)
    with pytest.raises(InputError, match="one shape"):
        FeatureSet.from_codes(indices[:, :2], values, DIM, LABELS)
    with pytest.raises(InputError, match="integer indices"):
        FeatureSet.from_codes(values, values, DIM, LABELS)


def test_a_writer_refuses_mixtures_and_emptiness_and_leaves_nothing(tmp_path: Path) -> None:
    features, (indices, values) = some_features(), some_codes()

    def mixed() -> None:
        with FeatureSetWriter.to(tmp_path / "set", DIM) as writer:
            writer.append(features, LABELS, IDS)
            writer.append_codes(indices, values, LABELS, IDS)

    def too_wide() -> None:
        with FeatureSetWriter.to(tmp_path / "set", DIM - 1) as writer:
            writer.append(features, LABELS, IDS)

    def empty() -> None:
        with FeatureSetWriter.to(tmp_path / "set", DIM):
            pass

    for attempt, message in ((mixed, "cannot mix"), (too_wide, "the set has 5"), (empty, "no rows")):
        with pytest.raises(InputError, match=message):
            attempt()
    assert not list(tmp_path.iterdir())


def test_folders_that_are_damaged_or_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set"
    FeatureSet.from_arrays(some_features(), LABELS).save(path)
    (path / "labels.npy").write_bytes((path / "labels.npy").read_bytes()[:-3])
    with pytest.raises(InputError, match=r"labels\.npy: damaged"):
        FeatureSet.open(path)
    with pytest.raises(InputError, match="nowhere"):
        FeatureSet.open(tmp_path / "nowhere")


def test_unverified_sets_are_trusted_with_their_values_alone(tmp_path: Path) -> None:
    path, shard = tmp_path / "set", tmp_path / "set/values-00000.npy"
    FeatureSet.from_arrays(some_features(), LABELS).save(path)
    content = shard.read_bytes()
    np.testing.assert_array_equal(FeatureSet.open(path, verify=False).dense(), some_features())
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert len(FeatureSet.open(path, verify=False)) == N
    with pytest.raises(InputError, match=r"values-00000\.npy: damaged"):
        FeatureSet.open(path)
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"values-00000\.npy: 679 bytes long, not the 680 of its 23 rows"):
        FeatureSet.open(path, verify=False)
    shard.unlink()
    with pytest.raises(InputError, match=r"values-00000\.npy: missing"):
        FeatureSet.open(path, verify=False)
    shard.write_bytes(content)
    (path / "values-00001.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"values-00001\.npy: not part of it"):
        FeatureSet.open(path, verify=False)
    (path / "values-00001.npy").unlink()
    (path / "labels.npy").write_bytes((path / "labels.npy").read_bytes()[:-1] + b"1")
    with pytest.raises(InputError, match=r"labels\.npy: damaged"):
        FeatureSet.open(path, verify=False)


def test_a_shard_that_is_written_to_while_the_set_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shard = tmp_path / "set", tmp_path / "set/values-00000.npy"
    FeatureSet.from_arrays(some_features(), LABELS).save(path)

    def verified_and_then_written_to(folder: Path, **more: Any) -> None:
        verify_folder(folder, **more)
        os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 10_000_000))

    monkeypatch.setattr(feature_set, "verify_folder", verified_and_then_written_to)
    with pytest.raises(InputError, match=r"values-00000\.npy: changed"):
        FeatureSet.open(path)


def test_sets_of_other_samples_are_told_apart() -> None:
    base = FeatureSet.from_arrays(some_features(), LABELS, IDS, name="simclr")
    check_same_samples(base, FeatureSet.from_arrays(some_features(1), LABELS, IDS))
    shorter = FeatureSet.from_arrays(some_features()[:-1], LABELS[:-1], IDS[:-1], name="sae")
    with pytest.raises(InputError, match="simclr and sae differ in length: 23 and 22"):
        check_same_samples(base, shorter)
    for labels, ids, message in (
        (LABELS, IDS[::-1], "ids differ first in row 0"),
        (np.where(IDS == 142, 3, LABELS), IDS, "labels differ first in row 6"),
    ):
        with pytest.raises(InputError, match=message):
            check_same_samples(base, FeatureSet.from_arrays(some_features(), labels, ids))
