"""One epoch of an SAE on features larger than memory: peak memory, rows a second, time lost to the disk.

    python benchmarks/disk_features.py [--rows 500000 5000000] [--folder DIR] [--dim 768] [--latents 4096]
                                       [--k 32] [--batch 1024] [--window MiB] [--threads 2] [--seed 0]

Sets of normal draws as float16 are written through `FeatureSetWriter` to a temporary folder, or to
`--folder`, where they stay and are used again; 5,000,000 x 768 take 7.8 GB. Every measurement is a fresh
process. It opens the set, which compares checksums and so reads all of it, drops the files' pages from the
cache of this system (a host may still hold them) and counts what is still there. Then it measures

    reading    `RowBatches` alone: every batch of an epoch, dense and shuffled
    training   all of `fit_sae` with one epoch: the start reads the set for its mean and scale, the end to
               count which latents fire
    its epoch  the part of it that learns

Waiting is the time in which the main thread had to have rows from the disk before it could go on. The peak is
VmHWM of /proc/self/status: the largest resident set of the process so far, file pages included.
"""

import argparse
import ctypes
import mmap
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data.feature_set import FeatureSet
from monosem.data.feature_writer import FeatureSetWriter
from monosem.data.shard_file import ShardFile
from monosem.data.windows import WINDOW_BYTES, RowBatches
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae

ROWS_AT_ONCE = 8192
MIB = 2**20


@dataclass(frozen=True)
class Work:
    """What a process measures."""

    path: Path
    settings: SAESettings
    window_bytes: int
    threads: int
    seed: int


@dataclass
class Reading:
    """Seconds of one measurement, how long it waited for the disk, and the peak in MiB."""

    name: str
    seconds: float
    waited: float
    peak: float


@dataclass
class Measured:
    """What one process found."""

    opening: float
    cached: float
    readings: list[Reading]


def make(path: Path, rows: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with FeatureSetWriter.to(path, dim, path.name, dtype="float16") as writer:
        for first in range(0, rows, ROWS_AT_ONCE):
            n = min(ROWS_AT_ONCE, rows - first)
            values = rng.standard_normal((n, dim), dtype=np.float32)
            writer.append(values, np.zeros(n, dtype=np.int64), np.arange(first, first + n))


def drop_from_cache(files: list[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # pages that wait to be written are not dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def share_cached(files: list[Path]) -> float:
    """Share of all pages of these files in the cache of this system."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    there = pages = 0
    for file in files:
        size = file.stat().st_size
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            found = np.empty(-(-size // mmap.PAGESIZE), dtype=np.uint8)
            start = (ctypes.c_char * size).from_buffer(mapped)  # of which no page is touched
            address = ctypes.c_void_p(ctypes.addressof(start))
            if mincore(address, ctypes.c_size_t(size), ctypes.c_void_p(found.ctypes.data)):
                raise OSError(ctypes.get_errno(), "mincore")
            del start
        there += int((found & 1).sum())
        pages += len(found)
    return there / pages


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class Waiting:
    """Counts seconds in which the main thread reads files itself, and those in which it waits for windows."""

    def __init__(self) -> None:
        self.reading = 0.0
        self.epoch: Reading | None = None
        self.in_epoch = False
        read, epoch = ShardFile._fill, RowBatches.epoch

        def timed_fill(file: ShardFile, *arguments: Any) -> None:
            started = time.perf_counter()
            read(file, *arguments)
            # What the epoch waits for it counts itself.
            if threading.current_thread() is threading.main_thread() and not self.in_epoch:
                self.reading += time.perf_counter() - started

        def timed_epoch(batches: RowBatches, number: int, first: int = 0) -> Iterator[Tensor]:
            started, waited = time.perf_counter(), batches.seconds_waited
            self.in_epoch = True
            yield from epoch(batches, number, first)
            self.in_epoch = False
            self.epoch = Reading(
                "its epoch", time.perf_counter() - started, batches.seconds_waited - waited, peak_mib()
            )

        ShardFile._fill = timed_fill  # type: ignore[method-assign]
        RowBatches.epoch = timed_epoch  # type: ignore[method-assign]

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.reading + (self.epoch.waited if self.epoch else 0.0)


def opened(work: Work) -> tuple[FeatureSet, float, float]:
    """The set, seconds to open it, and the share of it in the cache after that was emptied."""
    torch.set_num_threads(work.threads)
    started = time.perf_counter()
    features = FeatureSet.open(work.path)
    seconds = time.perf_counter() - started
    files = sorted(work.path.glob("*-*.npy"))
    drop_from_cache(files)
    return features, seconds, share_cached(files)


def read(work: Work) -> Measured:
    features, opening, cached = opened(work)
    waiting = Waiting()
    batches = RowBatches(features, work.settings.batch_size, seed=work.seed, window_bytes=work.window_bytes)
    rows = sum(len(batch) for batch in batches.epoch(0))
    assert waiting.epoch is not None
    assert rows == len(features)
    waiting.epoch.name = "reading"
    return Measured(opening, cached, [waiting.epoch])


def train(work: Work) -> Measured:
    features, opening, cached = opened(work)
    waiting = Waiting()
    started = time.perf_counter()
    fit_sae(features, work.settings, seed=work.seed, window_bytes=work.window_bytes)
    whole = Reading("training", time.perf_counter() - started, waiting.seconds, peak_mib())
    return Measured(opening, cached, [whole] + ([waiting.epoch] if waiting.epoch else []))


def alone(measure: Callable[[Work], Measured], work: Work) -> Measured:
    """In a process of its own, whose peak is that of nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, work).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--window", type=float, default=WINDOW_BYTES / MIB, help="window_bytes, in MiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = SAESettings(n_latents=arguments.latents, k=arguments.k, batch_size=arguments.batch, epochs=1)
    print(
        f"{arguments.dim} -> {arguments.latents:,}, k {arguments.k}, batches of {arguments.batch:,}, "
        f"windows of {arguments.window:g} MiB together, {arguments.threads} threads"
    )
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    by_rows: dict[int, dict[str, float]] = {}
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as place:
        for rows in arguments.rows:
            path = Path(place) / f"{rows}x{arguments.dim}-{arguments.seed}"
            needed = rows * (2 * arguments.dim + 16)
            if not path.exists():
                free = shutil.disk_usage(place).free
                if free < 1.1 * needed:
                    sys.exit(
                        f"{place}: {free / 1e9:.1f} GB free, {1.1 * needed / 1e9:.1f} GB are needed for "
                        f"{rows:,} rows; give another --folder or fewer --rows"
                    )
                started = time.perf_counter()
                make(path, rows, arguments.dim, arguments.seed)
                print(
                    f"\n{needed / 1e9:.2f} GB made in {time.perf_counter() - started:.1f} s; "
                    f"{free / 1e9:.0f} GB were free"
                )
            print(f"\n{rows:,} rows{'seconds':>24}{'rows/s':>10}{'waited, s':>11}{'VmHWM, MiB':>12}")
            work = Work(path, settings, int(arguments.window * MIB), arguments.threads, arguments.seed)
            by_rows[rows] = {}
            for measure in (read, train):
                found = alone(measure, work)
                for reading in found.readings:
                    by_rows[rows][reading.name] = reading.seconds
                    print(
                        f"{reading.name:20}{reading.seconds:18.1f}{rows / reading.seconds:10,.0f}"
                        f"{reading.waited:11.2f}{reading.peak:12,.0f}"
                    )
                cold = f"{found.cached:.1%} of the set in the cache at the start"
                print(f"    opened in {found.opening:.1f} s; {cold}", flush=True)
            if not arguments.folder:
                shutil.rmtree(path)
    fewest, most = min(by_rows), max(by_rows)
    for name in by_rows[most] if most > fewest else ():
        growth = by_rows[most][name] / by_rows[fewest][name] / (most / fewest)
        print(
            f"{name}: time of {most:,} rows over that of {fewest:,}, divided by {most / fewest:g}: "
            f"{growth:.3f}"
        )


if __name__ == "__main__":
    main()
