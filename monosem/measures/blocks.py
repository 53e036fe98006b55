"""Features read block by block of rows: arrays, maps, sparse codes, sets larger than memory."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError

BLOCK_ROWS = 4096


class Rows(Protocol):
    """A tensor [N, D], or what stands for one: rows come out dense, some at a time."""

    @property
    def shape(self) -> torch.Size:
        """(N, D)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""

    @property
    def device(self) -> torch.device:
        """Where rows come out."""

    def __len__(self) -> int:
        """Number of rows N."""

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Some of the rows, [n, D]."""


@runtime_checkable
class BlockedFeatures(Protocol):
    """What a feature set on disk offers: its shape, and its rows in order."""

    @property
    def dim(self) -> int:
        """Number of columns D."""

    def __len__(self) -> int:
        """Number of rows N."""

    def blocks(self, rows: int = ...) -> Iterator[tuple[slice, np.ndarray]]:
        """Consecutive blocks `[<=rows, D]` with the rows they cover."""


@runtime_checkable
class SparseRows(Protocol):
    """Rows [N, D] that are zero but for `values` [N, k] in the columns `indices` [N, k]; D = `dim`."""

    @property
    def indices(self) -> Tensor:
        """Columns; one that a row holds twice counts with the sum of its values."""

    @property
    def values(self) -> Tensor:
        """Of these columns."""

    @property
    def dim(self) -> int:
        """Number of columns D."""


Features = np.ndarray | Rows | BlockedFeatures
Labels = np.ndarray | Tensor


def features_shape(features: Features) -> tuple[int, int]:
    """Rows and columns `(N, D)`.

    Raises:
        InputError: an array that is not two-dimensional, or without rows or columns; something else than
            features, such as a list.
    """
    if isinstance(features, BlockedFeatures):
        return len(features), features.dim
    _refuse_other_kinds(features)
    shape = tuple(features.shape)
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"features must be a non-empty table [N, D], got shape {shape}")
    return shape[0], shape[1]


def row_blocks(features: Features, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, Tensor]]:
    """Yield `(rows covered, block [<=rows, D])` in order; float64 stays, all else becomes float32.

    Blocks may share memory with `features`: read them, do not write to them.
    """
    if isinstance(features, BlockedFeatures):
        for span, block in features.blocks(rows):
            yield span, as_floats(block)
    else:
        n_rows, _ = features_shape(features)
        for start in range(0, n_rows, rows):
            span = slice(start, min(start + rows, n_rows))
            yield span, as_floats(features[span])


def is_sparse(features: Features) -> TypeGuard[SparseRows]:
    """Whether features are sparse rows (a tensor has methods of the same names)."""
    return not isinstance(features, Tensor) and isinstance(features, SparseRows)


class Entries(NamedTuple):
    """What is not zero of sparse rows, sorted by column and then by row: rows, columns and values [E]."""

    rows: Tensor
    columns: Tensor
    values: Tensor


def entries_of(features: SparseRows) -> Entries:
    """Every entry that is not zero, once; the dense table never exists."""
    n_rows = len(features.values)
    row = torch.arange(n_rows, device=features.values.device)[:, None]
    keys, order = (features.indices.long() * n_rows + row).flatten().sort(stable=True)
    values = as_floats(features.values).flatten()[order]
    unique, place = torch.unique_consecutive(keys, return_inverse=True)
    summed = torch.zeros(len(unique), dtype=values.dtype, device=values.device).index_add_(0, place, values)
    there = summed != 0
    unique = unique[there]
    return Entries(unique % n_rows, unique // n_rows, summed[there])


def as_floats(array: np.ndarray | Tensor) -> Tensor:
    """A tensor over the same values, float64 as it is and every other type as float32.

    Raises:
        InputError: no array or tensor, a sparse tensor, or values that are no real numbers.
    """
    _refuse_other_kinds(array)
    if isinstance(array, Tensor):
        return array if array.dtype == torch.float64 else array.float()
    if array.dtype == np.float16:  # torch converts these ten times faster
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).float()
    kind = np.float64 if array.dtype == np.float64 else np.float32
    # torch warns about arrays it must not write to, which is what a read-only memory map is.
    return torch.from_numpy(np.require(array, dtype=kind, requirements=["C", "W"]))


def _refuse_other_kinds(features: object) -> None:
    """Refuse what has no rows, and rows that are no real numbers."""
    dtype = getattr(features, "dtype", None)
    if dtype is None or not hasattr(features, "shape"):
        raise InputError(
            f"features are an array, a tensor or a feature set, got {type(features).__name__}; "
            "numpy.asarray makes an array of a list"
        )
    if isinstance(features, Tensor) and features.layout != torch.strided:
        raise InputError("features are a sparse tensor; make them dense with to_dense(), or use Codes")
    is_real = not dtype.is_complex if isinstance(dtype, torch.dtype) else dtype.kind not in "cSUmM"
    if not is_real:
        raise InputError(f"features must be real numbers, got {dtype}")


def check_labels(labels: Labels, n_rows: int, n_classes: int) -> np.ndarray:
    """Labels as int64 `[N]`.

    Raises:
        InputError: not one label per row, a label outside `[0, n_classes)` or beyond int64, or fewer than two
            classes.
    """
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if n_classes < 2:
        raise InputError(f"at least two classes are needed, got {n_classes}")
    if array.shape != (n_rows,):
        raise InputError(f"{n_rows} rows need labels of shape ({n_rows},), got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"labels must be integers, got {array.dtype}")
    outside = np.flatnonzero((array < 0) | (array >= n_classes))
    if len(outside):
        raise InputError(f"label {array[outside[0]]} of row {outside[0]} lies outside 0..{n_classes - 1}")
    return as_int64(array, "label")


def as_int64(numbers: np.ndarray, name: str) -> np.ndarray:
    """Integers `[N]` as int64.

    Args:
        name: what one of them is, in the message.

    Raises:
        InputError: one is larger than int64 holds, and would turn negative.
    """
    if numbers.dtype.str[1:] == "u8" and len(numbers):
        row = int(numbers.argmax())
        if numbers[row] > np.iinfo(np.int64).max:
            raise InputError(f"{name} {numbers[row]} of row {row} does not fit int64; number them from 0 on")
    return numbers.astype(np.int64)
