"""Writes a feature set block by block, so that it may be larger than memory; complete or absent."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from monosem.core.artifacts import atomic_folder, write_json_atomic
from monosem.core.errors import InputError
from monosem.data.feature_block import Array, Block, FeatureDigest, code_block, dense_block, sample_arrays

FORMAT = "monosem-features"
VERSION = 1
SHARD_BYTES = 64 * 2**20


class FeatureSetWriter:
    """Collects blocks into shards of about 64 MiB; use `with FeatureSetWriter.to(path, dim) as writer`."""

    def __init__(self, folder: Path, dim: int, name: str, dtype: str) -> None:
        self._folder = folder
        self._dim = dim
        self._name = name
        self._dtype = dtype
        self._waiting: list[Block] = []
        self._waiting_bytes = 0
        self._labels: list[np.ndarray] = []
        self._ids: list[np.ndarray] = []
        self._shard_rows: list[int] = []
        self._n_rows = 0
        self._parts: dict[str, int] = {}
        self._digest = FeatureDigest(dim)

    @classmethod
    @contextmanager
    def to(cls, path: Path | str, dim: int, name: str = "features", dtype: str = "float32") -> Iterator[Self]:
        """A writer whose folder appears at `path` when the block ends well, and not at all otherwise.

        Raises:
            InputError: the folder there holds other files than monosem wrote.
        """
        with atomic_folder(Path(path)) as draft:
            writer = cls(draft, dim, name, dtype)
            yield writer
            writer._finish()

    def append(self, features: Array, labels: Array, ids: Array) -> None:
        """Add dense rows [n, D] with labels and ids [n].

        Raises:
            InputError: shapes that do not fit or values that are not finite.
        """
        self._add(dense_block(features, self._dim, self._dtype, self._n_rows), labels, ids)

    def append_codes(self, indices: Array, values: Array, labels: Array, ids: Array) -> None:
        """Add sparse codes, indices and values [n, k], with labels and ids [n].

        Raises:
            InputError: shapes that do not fit, indices outside 0..D-1 or values that are not finite.
        """
        self._add(code_block(indices, values, self._dim, self._dtype, self._n_rows), labels, ids)

    def _add(self, block: Block, labels: Array, ids: Array) -> None:
        parts = {part: array.shape[1] for part, array in block.arrays.items()}
        if self._parts and parts != self._parts:
            raise InputError("one feature set cannot mix dense rows with codes, nor codes of different k")
        self._parts = parts
        checked_labels, checked_ids = sample_arrays(len(block), labels, ids)
        self._labels.append(checked_labels)
        self._ids.append(checked_ids)
        self._waiting.append(block)
        self._waiting_bytes += block.nbytes
        self._n_rows += len(block)
        if self._waiting_bytes >= SHARD_BYTES:
            self._write_shard()

    def _write_shard(self) -> None:
        number = len(self._shard_rows)
        shard = Block.joined(self._waiting)
        for part, array in shard.arrays.items():
            np.save(self._folder / f"{part}-{number:05d}.npy", array)
        self._shard_rows.append(len(shard))
        self._digest.update(shard)
        self._waiting, self._waiting_bytes = [], 0

    def _finish(self) -> None:
        if self._waiting:
            self._write_shard()
        if not self._shard_rows:
            raise InputError(f"feature set {self._name}: no rows were written")
        ids = np.concatenate(self._ids)
        np.save(self._folder / "labels.npy", np.concatenate(self._labels))
        np.save(self._folder / "ids.npy", ids)
        index = {
            "format": FORMAT,
            "version": VERSION,
            "name": self._name,
            "dim": self._dim,
            "parts": self._parts,
            "shards": self._shard_rows,
            "fingerprint": self._digest.hexdigest(ids),
        }
        write_json_atomic(self._folder / "index.json", index)
