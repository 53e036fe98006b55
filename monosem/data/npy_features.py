"""Features and labels that others wrote with `numpy.save`, read in blocks like shards of our own."""

from pathlib import Path

import numpy as np

from monosem.core.errors import InputError
from monosem.data.feature_block import FLOATS, FeatureDigest, dense_block, sample_arrays
from monosem.data.feature_set import BLOCK_ROWS, FeatureSet
from monosem.data.shard_file import Header, ShardFile, StoredBlock
from monosem.measures.blocks import as_int64

NO_LABEL = -1
"""The label of samples that have none."""


def open_features(path: Path | str, labels: Path | str | None = None) -> FeatureSet:
    """The feature set in a folder, or one of dense features [N, D] in a .npy file; both stay on disk.

    What a file holds comes out as `FeatureSet.from_arrays` would take it, with row numbers as ids: of the
    same fingerprint, float16 and float32 as they are, other floats as float32. All rows are read once, a
    block at a time, to be checked.

    Args:
        labels: a .npy file of integers from 0 on, [N], for features in a file; without, every label is -1.

    Raises:
        InputError: nothing of the kind, damaged, a value that is not finite (row and column named), labels
            that do not fit, or labels for a folder, which has its own.
    """
    path = Path(path)
    if path.is_dir():
        if labels is not None:
            raise InputError(f"{labels}: {path} is a feature set with labels of its own; leave these out")
        return FeatureSet.open(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; features are a .npy file of floats [N, D], or a folder that"
            " FeatureSet.save wrote"
        )
    file = _table(path)
    n, dim = file.shape
    given = np.full(n, NO_LABEL) if labels is None else _labels(Path(labels), path, n)
    ids = np.arange(n)
    digest = FeatureDigest(dim)
    for first in range(0, n, BLOCK_ROWS):
        rows = file[first : first + BLOCK_ROWS]
        try:
            digest.update(dense_block(rows, first_row=first))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    stored = file if str(file.on_disk) in FLOATS else file.read_as("float32")
    opened = FeatureSet(path.stem, dim, *sample_arrays(n, given, ids), (StoredBlock(stored),))
    opened.__dict__["fingerprint"] = digest.hexdigest(ids)  # spares reading everything once more
    return opened


def _table(path: Path) -> ShardFile:
    header = Header.of(path)
    if header is None:
        raise InputError(f"{path}: no .npy file; write one with numpy.save(path, features)")
    if header.dtype.hasobject:
        raise InputError(f"{path}: holds pickled objects, which are never read; save an array of floats")
    if not np.issubdtype(header.dtype, np.floating):
        raise InputError(f"{path}: holds {header.dtype}, features are floats; save them as float32")
    if len(header.shape) != 2 or 0 in header.shape:
        raise InputError(f"{path}: holds an array {list(header.shape)}, features are [N, D] and not empty")
    if header.columns_first:
        raise InputError(f"{path}: stored column by column; save numpy.ascontiguousarray(features)")
    return ShardFile.of(path, header, "write it again")


def _labels(path: Path, features: Path, n: int) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: no such file; labels are a .npy file of integers [{n}]")
    header = Header.of(path)
    if header is None:
        raise InputError(f"{path}: no .npy file; write one with numpy.save(path, labels)")
    if header.shape != (n,) or not np.issubdtype(header.dtype, np.integer):
        raise InputError(
            f"{path}: holds {header.dtype} {list(header.shape)}; the rows of {features} need integers [{n}]"
        )
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: cut short ({error}); write it again") from None
    if found.min() < 0:
        row = int(found.argmin())
        raise InputError(f"{path}: label {found[row]} in row {row}; number the classes from 0 on")
    try:
        return as_int64(found, "label")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
