"""Features of labelled samples, dense or sparse, in memory or in shards on disk, read in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from monosem.core.artifacts import read_json, verify_folder
from monosem.core.errors import InputError
from monosem.data.feature_block import Array, Block, FeatureDigest, code_block, dense_block, sample_arrays
from monosem.data.feature_writer import FORMAT, VERSION, FeatureSetWriter

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class FeatureSet:
    """N samples of `dim` = D features, with labels and sample ids, both int64 [N].

    `shards` hold the rows in order; those of an opened folder are memory maps. Make one with `from_arrays`,
    `from_codes` or `open`, or write one larger than memory with `FeatureSetWriter`.
    """

    name: str
    dim: int
    labels: np.ndarray
    ids: np.ndarray
    shards: tuple[Block, ...]

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
    def open(cls, path: Path) -> Self:
        """Open a folder that `save` or `FeatureSetWriter` made; features stay on disk until they are read.

        Raises:
            InputError: no feature set, one of another version, or damaged (file named).
        """
        verify_folder(path)
        index = read_json(path / "index.json") if (path / "index.json").exists() else {}
        if index.get("format") != FORMAT or index.get("version") != VERSION:
            raise InputError(f"{path}: no feature set of version {VERSION}; make it again with this monosem")
        # Copy on write: nobody can change the file through the map, and torch takes it without a warning.
        shards = tuple(
            Block(
                **{part: np.load(path / f"{part}-{number:05d}.npy", mmap_mode="c") for part in index["parts"]}
            )
            for number in range(len(index["shards"]))
        )
        labels, ids = (np.load(path / f"{name}.npy") for name in ("labels", "ids"))
        opened = cls(index["name"], index["dim"], labels, ids, shards)
        opened.__dict__["fingerprint"] = index["fingerprint"]  # spares reading everything once more
        return opened

    def save(self, path: Path, dtype: str | None = None) -> None:
        """Write the set as a folder at `path`, complete or not at all; `dtype` float32 or float16 converts.

        Raises:
            InputError: a value does not fit float16.
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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over features (as stored) and ids, however they are sharded; labels do not enter."""
        digest = FeatureDigest(self.dim)
        for shard in self.shards:
            digest.update(shard)
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
        everything = Block.joined(self.shards)
        if everything.indices is None:
            raise InputError(f"feature set {self.name}: dense features have no codes")
        return everything.indices, everything.values

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
