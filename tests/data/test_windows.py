"""Batches of features larger than memory: against naive slicing, gone back to, in parts, and disturbed."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.seeding import torch_stream
from monosem.data import feature_writer
from monosem.data.feature_set import FeatureSet
from monosem.data.shard_file import ShardFile
from monosem.data.window_order import BLOCKS_A_WINDOW, WindowOrder
from monosem.data.windows import RowBatches

N, DIM, K, BATCH, SEED = 1000, 4, 2, 30, 7
ROW_BYTES = {"dense": 2 * DIM + 8, "codes": (4 + 2) * K + 8}
WINDOWS = 3
VALUES = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float16)
COLUMNS = np.stack([np.arange(N) % DIM, (np.arange(N) + 1) % DIM], axis=1)


def stored(path: Path, kind: str = "dense", shard_bytes: int = 1000) -> FeatureSet:
    """A set of float16 in shards of about 1 kB."""
    labels = np.arange(N)
    made = (
        FeatureSet.from_arrays(VALUES, labels)
        if kind == "dense"
        else FeatureSet.from_codes(COLUMNS, VALUES[:, :K], DIM, labels)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_writer, "SHARD_BYTES", shard_bytes)
        patch.setattr("monosem.data.feature_set.BLOCK_ROWS", 50)
        made.save(path)
    return FeatureSet.open(path)


def window_bytes(windows: int, kind: str = "dense") -> int:
    """A setting with which the set is read in so many windows."""
    batches = -(-N // BATCH)
    return 2 * ROW_BYTES[kind] * BATCH * -(-batches // windows)


def in_windows(features: FeatureSet, kind: str = "dense", **more: Any) -> RowBatches:
    return RowBatches(features, BATCH, seed=SEED, window_bytes=window_bytes(WINDOWS, kind), **more)


def whole_order(epoch: int, n_batches: int) -> tuple[Tensor, ...]:
    order = torch.randperm(N, generator=torch_stream(SEED, "sae", "order", epoch))
    return order.tensor_split(n_batches)


def naive_order(epoch: int, windows: int, block_rows: int) -> list[np.ndarray]:
    """Rows of every batch, with all of the epoch laid out at once."""
    n_batches = -(-N // BATCH)
    blocks = [np.arange(start, min(start + block_rows, N)) for start in range(0, N, block_rows)]
    laid_out = torch.randperm(len(blocks), generator=torch_stream(SEED, "sae", "order", epoch))
    line = np.concatenate([blocks[block] for block in laid_out])
    batches = np.array_split(line, n_batches)
    found = []
    for window, numbers in enumerate(np.array_split(np.arange(n_batches), windows)):
        rows = np.concatenate([batches[number] for number in numbers])
        stream = torch_stream(SEED, "sae", "order", epoch, window)
        shuffled = rows[torch.randperm(len(rows), generator=stream).numpy()]
        ends = np.cumsum([len(batches[number]) for number in numbers])
        found += np.split(shuffled, ends[:-1])
    return found


@pytest.mark.parametrize("batch_size", [1, 30, N, 5 * N])
def test_what_fits_in_memory_is_shuffled_as_a_whole(tmp_path: Path, batch_size: int) -> None:
    on_disk = stored(tmp_path / "set")
    kinds = {
        "float64": VALUES.astype(np.float64),
        "tensor": torch.from_numpy(VALUES),
        "in memory": FeatureSet.from_arrays(VALUES, np.zeros(N, dtype=np.int64)),
        "on disk": on_disk,
    }
    for kind, features in kinds.items():
        batches = RowBatches(features, batch_size, seed=SEED, window_bytes=N * ROW_BYTES["dense"])
        assert (batches.n_batches, batches.n_windows) == (-(-N // batch_size), 1)
        for epoch in (0, 2):
            expected = whole_order(epoch, batches.n_batches)
            for number, (found, rows) in enumerate(zip(batches.epoch(epoch), expected, strict=True)):
                kept = torch.float64 if kind == "float64" else torch.float32
                assert found.dtype == kept
                assert torch.equal(found, torch.from_numpy(VALUES)[rows].to(kept))
                assert batches.rows_in(number) == len(rows)
    little = RowBatches(kinds["in memory"], batch_size, seed=SEED, window_bytes=1)
    assert little.n_windows == 1  # what is in memory already needs no windows


@pytest.mark.parametrize("kind", ["dense", "codes"])
def test_windows_against_naive_slicing(tmp_path: Path, kind: str) -> None:
    features = stored(tmp_path / "set", kind)
    dense = torch.from_numpy(features.dense())
    batches = in_windows(features, kind)
    window_rows = window_bytes(WINDOWS, kind) // (2 * ROW_BYTES[kind])
    assert (batches.n_windows, batches.n_batches) == (WINDOWS, 34)
    for epoch in range(3):
        found = list(batches.epoch(epoch))
        expected = naive_order(epoch, WINDOWS, block_rows=window_rows // BLOCKS_A_WINDOW)
        assert [len(batch) for batch in found] == [batches.rows_in(number) for number in range(34)]
        assert len(found) == len(expected)
        for batch, rows in zip(found, expected, strict=True):
            assert torch.equal(batch, dense[rows])
            assert batch.dtype == torch.float32
        if kind == "dense":
            assert np.array_equal(np.sort(np.concatenate(expected)), np.arange(N))


def test_epochs_differ_and_repeat(tmp_path: Path) -> None:
    batches = in_windows(stored(tmp_path / "set"))
    first, second, again = (torch.cat(list(batches.epoch(epoch))) for epoch in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    other = RowBatches(batches._features, BATCH, seed=SEED + 1, window_bytes=window_bytes(WINDOWS))
    assert not torch.equal(first, torch.cat(list(other.epoch(0))))
    assert torch.equal(first.sort(dim=0).values, second.sort(dim=0).values)


def test_an_epoch_goes_on_at_any_batch_and_reads_no_earlier_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = in_windows(stored(tmp_path / "set"))
    whole = list(batches.epoch(1))
    rows_read = []
    read_into = ShardFile.read_into

    def counted(self: ShardFile, first: int, out: np.ndarray) -> None:
        rows_read.append(len(out))
        read_into(self, first, out)

    monkeypatch.setattr(ShardFile, "read_into", counted)
    for first in range(batches.n_batches + 1):
        rows_read.clear()
        rest = list(batches.epoch(1, first))
        assert len(rest) == batches.n_batches - first
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first:], strict=True))
        window = next((w for w, end in enumerate((12, 23, 34)) if first < end), 3)
        assert sum(rows_read) == sum(batches.rows_in(number) for number in range((0, 12, 23, 34)[window], 34))
    held = RowBatches(batches._features, BATCH, seed=SEED)
    whole = list(held.epoch(1))
    for first in range(held.n_batches + 1):
        rest = list(held.epoch(1, first))
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_the_order_does_not_depend_on_shards(tmp_path: Path) -> None:
    few, many = stored(tmp_path / "few", shard_bytes=2**20), stored(tmp_path / "many", shard_bytes=300)
    assert (len(few.shards), len(many.shards)) == (1, 20)
    for a, b in zip(in_windows(few).epoch(0), in_windows(many).epoch(0), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "make", [in_windows, lambda features, **more: RowBatches(features, BATCH, seed=SEED, **more)]
)
def test_the_parts_of_several_processes_are_the_batch(
    tmp_path: Path, make: Callable[..., RowBatches]
) -> None:
    features = stored(tmp_path / "set")
    parts = [make(features, part=(number, 3)).epoch(0, 2) for number in range(3)]
    for whole, *of_batch in zip(make(features).epoch(0, 2), *parts, strict=True):
        assert torch.equal(torch.cat(of_batch), whole)
        assert max(map(len, of_batch)) - min(map(len, of_batch)) <= 1


@settings(deadline=None, max_examples=50)
@given(
    n_rows=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    more_rows=st.integers(0, 100),
    epoch=st.integers(0, 3),
)
def test_any_order_holds_every_row_once_in_windows_that_fit(
    n_rows: int, batch_size: int, more_rows: int, epoch: int
) -> None:
    n_batches = -(-n_rows // batch_size)
    largest = -(-n_rows // n_batches)
    order = WindowOrder(n_rows, n_batches, largest + more_rows, SEED)
    rows, sizes = [], []
    for window in range(order.n_windows):
        laid_out = np.concatenate([np.array(piece) for piece in order.pieces(epoch, window)])
        assert len(laid_out) <= order.largest_window <= largest + more_rows
        shuffled = order.shuffled(epoch, window)
        assert [order.window_of(batch) for batch in order.batches(window)] == [window] * len(shuffled)
        rows += [laid_out[batch.numpy()] for batch in shuffled]
        sizes += [len(batch) for batch in shuffled]
    assert sizes == [len(part) for part in torch.arange(n_rows).tensor_split(n_batches)]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(n_rows))


def gone(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def written_to(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"7")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))


@pytest.mark.parametrize(
    ("change", "message"), [(gone, "no such file"), (cut_short, "changed"), (written_to, "changed")]
)
def test_a_shard_that_is_changed_during_an_epoch_ends_it(tmp_path: Path, change: Any, message: str) -> None:
    features = stored(tmp_path / "set")
    batches = RowBatches(features, BATCH, seed=SEED, window_bytes=window_bytes(17))
    assert batches.n_windows == 17
    epoch = batches.epoch(0)
    next(epoch)
    for shard in (tmp_path / "set").glob("values-*.npy"):
        change(shard)
    with pytest.raises(InputError, match=rf"values-000\d\d\.npy: {message}"):
        list(epoch)
    held = RowBatches(features, BATCH, seed=SEED)
    with pytest.raises(InputError, match=message):
        next(held.epoch(0))


def test_features_held_in_memory_are_refused_once_their_files_changed(tmp_path: Path) -> None:
    held = RowBatches(stored(tmp_path / "set"), BATCH, seed=SEED)
    list(held.epoch(0))
    written_to(tmp_path / "set/values-00003.npy")
    with pytest.raises(InputError, match=r"values-00003\.npy: changed"):
        next(held.epoch(1))


def test_an_epoch_that_is_given_up_leaves_no_thread(tmp_path: Path) -> None:
    batches = in_windows(stored(tmp_path / "set"))
    epoch = batches.epoch(0)
    next(epoch)
    assert batches.seconds_waited > 0
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("windows")]


def test_windows_that_hold_no_batch_are_refused(tmp_path: Path) -> None:
    features = stored(tmp_path / "set")
    enough = 2 * ROW_BYTES["dense"] * BATCH
    assert RowBatches(features, BATCH, seed=SEED, window_bytes=enough).n_windows == 34
    with pytest.raises(InputError, match=f"two batches of 30 rows; give at least {enough}"):
        RowBatches(features, BATCH, seed=SEED, window_bytes=enough - 1)


PEAKS = """
import sys
from pathlib import Path

from monosem.data import feature_writer
from monosem.data.feature_set import FeatureSet
from monosem.data.windows import RowBatches
from monosem.sparse.inputs import encode_to
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings

feature_writer.SHARD_BYTES = 2**20
sae = SAE(256, SAESettings(n_latents=16, k=2))
for path in map(Path, sys.argv[1:]):
    features = FeatureSet.open(path)
    batches = RowBatches(features, 1024, seed=0, window_bytes=4 * 2**20)
    rows = sum(len(batch) for batch in batches.epoch(0))
    rows += sum(len(block) for _, block in features.blocks())
    rows += len(encode_to(sae, features, path / "../codes", same_encoder=True))
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in status if line.startswith("VmHWM"))
    print(batches.n_windows, rows, peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_peak_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """File pages included: with memory maps, or a copy of the set, the second peak is 56 MiB higher."""
    block = np.random.default_rng(0).normal(size=(8192, 256)).astype(np.float16)
    sizes = {"small": 2, "large": 16}  # 8 and 64 MiB
    for name, blocks in sizes.items():
        with feature_writer.FeatureSetWriter.to(tmp_path / name, 256, dtype="float16") as writer:
            for number in range(blocks):
                writer.append(block, np.zeros(8192, np.int64), np.arange(8192) + 8192 * number)
    command = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in sizes)]
    # Without this the allocator keeps what was freed, now more and now less of it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (windows, rows, peak), (more_windows, more_rows, higher) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert (windows, more_windows) == (6, 43)
    assert (rows, more_rows) == (3 * 2 * 8192, 3 * 16 * 8192)
    assert higher - peak < 16 * 1024  # kB, of which labels and ids take 2 MiB
