"""Features of labelled samples, dense or sparse, in memory or in shards on disk, read in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from monosem.core.artifacts import read_json, verify_folder
from monosem.core.errors import InputError
from monosem.data.feature_block import Array, Block, FeatureDigest, code_block, dense_block, sample_arrays
from monosem.data.feature_writer import FORMAT, VERSION, FeatureSetWriter
from monosem.data.shard_file import KINDS, ShardFile, Stamp, StoredBlock

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class FeatureSet:
    """N samples of `dim` = D features, with labels and sample ids, both int64 [N].

    `shards` hold the rows in order; those of an opened folder stay on disk, and every access reads the rows
    it asks for. Make one with `from_arrays`, `from_codes` or `open`, or write one larger than memory with
    `FeatureSetWriter`.

    Raises:
        InputError: whenever rows are read, a file that is missing or was changed since it was opened.
    """

    name: str
    dim: int
    labels: np.ndarray
    ids: np.ndarray
    shards: tuple[Block | StoredBlock, ...]

    @classmethod
    def from_arrays(
        cls, features: Array, labels: Array, ids: Array | None = None, name: str = "features"
    ) -> Self:
        """Dense features [N, D] of floating point, labels [N], and ids [N] (row numbers by default).

        Raises:
            InputError: shapes that do not fit, or a value that is not finite (row and column named).
        """
        block = dense_block(features)
        return cls(name, block.values.shape[1], *sample_arrays(len(block), labels, ids), (block,))

    @classmethod
    def from_codes(
        cls,
        indices: Array,
        values: Array,
        dim: int,
        labels: Array,
        ids: Array | None = None,
        name: str = "codes",
    ) -> Self:
        """Sparse codes: indices int [N, k] in 0..dim-1 with values [N, k]; the rest as in `from_arrays`.

        Raises:
            InputError: shapes that do not fit, an index outside the range, or a value that is not finite.
        """
        block = code_block(indices, values, dim)
        return cls(name, dim, *sample_arrays(len(block), labels, ids), (block,))

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Self:
        """Open a folder that `save` or `FeatureSetWriter` made; features stay on disk until they are read.

        Args:
            verify: compare every file with its checksum, which reads all of them once, a block at a time.
                False trusts the contents of the shards, for those who opened or wrote the same folder just
                now; shards that are missing, cut short or of another shape are refused all the same.

        Raises:
            InputError: no feature set, one of another version, damaged, or changed meanwhile (file named).
        """
        path = Path(path)
        if not path.is_dir():
            what = "a file; monosem.open_features reads .npy files" if path.exists() else "no such folder"
            raise InputError(f"{path}: {what}; a feature set is a folder that FeatureSet.save wrote")
        # Looked at before they are compared: a file that is written to later is not the one that was.
        stamps = {file.name: Stamp.of(file.stat()) for file in path.glob("*-*.npy")}
        verify_folder(path, unread=() if verify else stamps.keys())
        index = read_json(path / "index.json") if (path / "index.json").exists() else {}
        if index.get("format") != FORMAT or index.get("version") != VERSION:
            raise InputError(f"{path}: no feature set of version {VERSION}; make it again with this monosem")

        def file(part: str, number: int) -> ShardFile:
            name = f"{part}-{number:05d}.npy"
            shape = index["shards"][number], index["parts"][part]
            return ShardFile.open(path / name, shape, KINDS[part], stamps.get(name))

        shards = tuple(
            StoredBlock(**{part: file(part, number) for part in index["parts"]})
            for number in range(len(index["shards"]))
        )
        labels, ids = (np.load(path / f"{name}.npy") for name in ("labels", "ids"))
        opened = cls(index["name"], index["dim"], labels, ids, shards)
        opened.__dict__["fingerprint"] = index["fingerprint"]  # spares reading everything once more
        return opened

    def save(self, path: Path | str, dtype: str | None = None) -> None:
        """Write the set as a folder at `path`, complete or not at all; `dtype` float32 or float16 converts.

        Raises:
            InputError: a value does not fit float16, or the folder holds files that others wrote.
            MonosemError: the disk is full.
        """
        with FeatureSetWriter.to(
            path, self.dim, self.name, dtype or str(self.shards[0].values.dtype)
        ) as writer:
            for rows, block in self._stored_blocks(BLOCK_ROWS):
                if block.indices is None:
                    writer.append(block.values, self.labels[rows], self.ids[rows])
                else:
                    writer.append_codes(block.indices, block.values, self.labels[rows], self.ids[rows])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_sparse(self) -> bool:
        """Whether the rows are held as codes."""
        return self.shards[0].indices is not None

    @property
    def is_on_disk(self) -> bool:
        """Whether rows are read from files when they are asked for."""
        return any(isinstance(shard, StoredBlock) for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of the features as they are stored."""
        return sum(shard.nbytes for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over features (as stored) and ids, however they are sharded; labels do not enter."""
        digest = FeatureDigest(self.dim)
        for _, block in self._stored_blocks(BLOCK_ROWS):
            digest.update(block)
        return digest.hexdigest(self.ids)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """Dense float32 blocks of at most `rows` rows, each with the slice of rows it holds, in order."""
        for where, block in self._stored_blocks(rows):
            yield where, block.dense(self.dim)

    def dense(self) -> np.ndarray:
        """All features as a new float32 array [N, D]."""
        features = np.empty((len(self), self.dim), dtype=np.float32)
        for where, block in self.blocks():
            features[where] = block
        return features

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices int32 [N, k] and values [N, k] of a sparse set.

        Raises:
            InputError: the set is dense.
        """
        if not self.is_sparse:
            raise InputError(f"feature set {self.name}: dense features have no codes")
        everything = self.empty_block(len(self))
        self.read_into(0, everything)
        return everything.arrays["indices"], everything.values

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, int [n] in any order, dense float32 [n, D]; of files no other rows are read.

        Raises:
            IndexError: a number outside 0..N-1.
        """
        if len(self.shards) == 1:
            return self.shards[0][rows].dense(self.dim)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"feature set {self.name}: rows are numbered from 0 to {len(self) - 1}")
        numbers = np.searchsorted(self._ends, rows, side="right")
        taken = np.empty((len(rows), self.dim), dtype=np.float32)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            taken[here] = self.shards[number][rows[here] - self._first_row(number)].dense(self.dim)
        return taken

    def empty_block(self, n: int) -> Block:
        """Room for `n` rows as this set stores them, its entries not set."""
        stored = self.shards[0].arrays.items()
        return Block(**{part: np.empty((n, array.shape[1]), array.dtype) for part, array in stored})

    def read_into(self, first: int, out: Block) -> None:
        """Fill a block such as `empty_block` makes with the rows from number `first` on, as stored."""
        number = int(np.searchsorted(self._ends, first, side="right"))
        done = 0
        while done < len(out):
            start = first + done - self._first_row(number)
            n = min(len(out) - done, len(self.shards[number]) - start)
            self.shards[number].read_into(start, out[done : done + n])
            done += n
            number += 1

    def in_memory(self) -> Self:
        """The same set, its features read as they are stored and joined to one shard."""
        everything = self.empty_block(len(self))
        self.read_into(0, everything)
        held = replace(self, shards=(everything,))
        held.__dict__["fingerprint"] = self.fingerprint
        return held

    def check_unchanged(self) -> None:
        """Look whether all files are still those that were opened, without reading them.

        Raises:
            InputError: one is missing or was changed (named).
        """
        for shard in self.shards:
            if isinstance(shard, StoredBlock):
                shard.check_unchanged()

    @cached_property
    def _ends(self) -> np.ndarray:
        """The number of the first row after each shard."""
        return np.cumsum([len(shard) for shard in self.shards])

    def _first_row(self, number: int) -> int:
        return int(self._ends[number]) - len(self.shards[number])

    def _stored_blocks(self, rows: int) -> Iterator[tuple[slice, Block]]:
        first = 0
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                block = shard[start : start + rows]
                yield slice(first + start, first + start + len(block)), block
            first += len(shard)


def check_same_samples(a: FeatureSet, b: FeatureSet) -> None:
    """Make sure that two feature sets describe the same samples in the same order.

    Raises:
        InputError: they differ in length, ids or labels (first differing row named).
    """
    if len(a) != len(b):
        raise InputError(
            f"feature sets {a.name} and {b.name} differ in length: {len(a)} and {len(b)} samples"
        )
    for what in ("ids", "labels"):
        of_a, of_b = getattr(a, what), getattr(b, what)
        if (of_a != of_b).any():
            row = int(np.argmax(of_a != of_b))
            raise InputError(
                f"feature sets {a.name} and {b.name} are of other samples: {what} differ first in row {row} "
                f"({of_a[row]} and {of_b[row]})"
            )
