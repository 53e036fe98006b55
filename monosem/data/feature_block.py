"""Some rows of a feature set, dense or as sparse codes, checked where they enter."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from monosem.core.artifacts import fingerprint_arrays, fingerprint_json
from monosem.core.errors import InputError
from monosem.data.codes import Codes
from monosem.measures.blocks import as_floats, as_int64

Array = np.ndarray | Tensor

FLOATS = ("float16", "float32")


@dataclass(frozen=True)
class Block:
    """Dense features: `values` [n, D]; sparse codes: `values` and `indices` (int32), both [n, k].

    Values are float16 or float32. An index that a row holds twice counts with the sum of its values.
    """

    values: np.ndarray
    indices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        return type(self)(self.values[rows], None if self.indices is None else self.indices[rows])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored, by the name of its file."""
        return {"values": self.values} | ({} if self.indices is None else {"indices": self.indices})

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """The rows of all blocks, which are of one kind, in order."""
        parts = {part: np.concatenate([block.arrays[part] for block in blocks]) for part in blocks[0].arrays}
        return cls(**parts)

    def read_into(self, first: int, out: "Block") -> None:
        """Fill another block with the rows from number `first` on."""
        for part, array in out.arrays.items():
            array[:] = self.arrays[part][first : first + len(out)]

    def dense(self, dim: int) -> np.ndarray:
        """The rows as float32 [n, D]; dense float32 rows come back uncopied."""
        if self.indices is None:
            half = self.values.dtype == np.float16
            return as_floats(self.values).numpy() if half else self.values.astype(np.float32, copy=False)
        return Codes(torch.from_numpy(self.indices), as_floats(self.values), dim)[:].numpy()


class FeatureDigest:
    """Fingerprint of features and sample ids, whatever the blocks they come in. Labels do not enter."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._kinds: dict[str, str] = {}
        self._digests: dict[str, Any] = {}

    def update(self, block: Block) -> None:
        """Add the next rows."""
        for part, array in block.arrays.items():
            self._kinds[part] = f"{array.dtype}[{array.shape[1]}]"
            self._digests.setdefault(part, hashlib.sha256()).update(np.ascontiguousarray(array).data)

    def hexdigest(self, ids: np.ndarray) -> str:
        """SHA-256 over the rows so far and their ids [N]."""
        contents = {part: digest.hexdigest() for part, digest in self._digests.items()}
        identity = {"dim": self._dim, "kinds": self._kinds, "contents": contents}
        return fingerprint_json({**identity, "ids": fingerprint_arrays(ids)})


def dense_block(
    features: Array, dim: int | None = None, dtype: str | None = None, first_row: int = 0
) -> Block:
    """Check dense features [n, D], `dim` wide if given, and store them as `dtype` (default: as they are).

    `first_row` is added to the row numbers in messages.

    Raises:
        InputError: not [n, D], another width, or a value that is not finite (row and column named).
    """
    values = to_numpy(features)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"features must be [N, D] and not empty, got shape {values.shape}")
    if dim is not None and values.shape[1] != dim:
        raise InputError(f"features have {values.shape[1]} dimensions, the set has {dim}")
    return Block(_checked_values(values, dtype, first_row))


def code_block(
    indices: Array, values: Array, dim: int, dtype: str | None = None, first_row: int = 0
) -> Block:
    """Check sparse codes, `indices` int [n, k] in 0..dim-1 with `values` [n, k]; the rest as `dense_block`.

    Raises:
        InputError: shapes that differ, an index outside the range, or a value that is not finite.
    """
    where, what = to_numpy(indices), to_numpy(values)
    if where.ndim != 2 or where.size == 0 or where.shape != what.shape:
        raise InputError(
            f"codes need indices and values of one shape [N, k], got {where.shape}, {what.shape}"
        )
    if not np.issubdtype(where.dtype, np.integer):
        raise InputError(f"codes need integer indices, got {where.dtype}")
    outside = (where < 0) | (where >= dim)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(f"code index {where[row, column]} in row {first_row + row} is outside 0..{dim - 1}")
    return Block(_checked_values(what, dtype, first_row), where.astype(np.int32))


def sample_arrays(n: int, labels: Array, ids: Array | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ids of `n` samples, checked, as int64 [n]; ids are row numbers by default.

    Raises:
        InputError: another length, not integers, or one that int64 does not hold.
    """
    arrays = []
    for name, given in (("labels", labels), ("ids", np.arange(n) if ids is None else ids)):
        array = to_numpy(given)
        if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"{n} rows of features need {n} integer {name}, got {array.dtype} {array.shape}")
        arrays.append(as_int64(array, name.removesuffix("s")))
    return arrays[0], arrays[1]


def to_numpy(array: Array) -> np.ndarray:
    """A numpy view of an array or a tensor on any device; a copy of bfloat16, which numpy does not know."""
    if not isinstance(array, Tensor):
        return np.asarray(array)
    held = array.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()


def _checked_values(values: np.ndarray, dtype: str | None, first_row: int) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"features must be floating point, got {values.dtype}")
    chosen = dtype or (str(values.dtype) if str(values.dtype) in FLOATS else "float32")
    if chosen not in FLOATS:
        raise InputError(f"features are stored as {' or '.join(FLOATS)}, not {chosen}")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(chosen, copy=False)
        # A sum is finite only if every term is, and spares a mask as large as the features.
        total = stored.sum(dtype=np.float64)
    if not np.isfinite(total):
        row, column = np.argwhere(~np.isfinite(stored))[0]
        found = values[row, column]
        reason = f"does not fit {chosen}" if np.isfinite(found) else "is not finite"
        raise InputError(f"feature value {found} in row {first_row + row}, column {column} {reason}")
    return np.ascontiguousarray(stored)
