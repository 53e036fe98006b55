"""Shards on disk: .npy files whose rows are read when they are asked for, and never mapped.

Pages of a memory map count as memory of the process, and a mapped file that is cut short kills the process at
the next access. A read takes what it asks for, and can say what is wrong.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from monosem.core.errors import InputError
from monosem.data.feature_block import FLOATS, Block

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_CONVERTED_BYTES = 2**20
"""Of a file whose entries are converted, read at once."""
KINDS = {"values": FLOATS, "indices": ("int32",)}
"""Types of the entries of each part of a shard."""


class Stamp(NamedTuple):
    """What of a file changes when somebody writes to it: its bytes, and when it was last written."""

    size: int
    written_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """That of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns)


class Header(NamedTuple):
    """What a .npy file says of its array, whose entries come from byte `start` on."""

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[Any]
    start: int
    stamp: Stamp

    @classmethod
    def of(cls, path: Path, stamp: Stamp | None = None) -> Self | None:
        """That of a file, which has not changed since `stamp`; None for a file that is no .npy.

        Raises:
            InputError: missing, unreadable, or changed.
        """
        with _opened(path) as stream:
            found = Stamp.of(os.fstat(stream.fileno()))
            if stamp not in (None, found):
                raise _changed(path)
            try:
                shape, columns_first, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
            except (ValueError, KeyError):
                return None
            return cls(shape, columns_first, dtype, stream.tell(), found)


@dataclass(frozen=True)
class ShardFile:
    """A table `shape` = (n, width) in a .npy file, rows one after the other from byte `start` on.

    Entries are read as `dtype`, whatever float or integer they are `on_disk`. Every read opens the file and
    closes it: sets of any number of shards hold no descriptors, threads do not meet, and a file that is gone
    or written to is noticed each time.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    start: int
    stamp: Stamp
    on_disk: np.dtype[Any]

    @classmethod
    def open(
        cls, path: Path, shape: tuple[int, int], kinds: tuple[str, ...], stamp: Stamp | None = None
    ) -> Self:
        """Read the header of a file that should hold a table of this shape, its entries of one of `kinds`.

        `stamp` is the file's from an earlier look at it; by default it counts from now on.

        Raises:
            InputError: missing, unreadable, no such table, changed since `stamp`, or not as long as its
                header says.
        """
        header = Header.of(path, stamp)
        if header is None:
            raise InputError(f"{path}: no .npy file that monosem wrote; make the set again")
        if header.shape != shape or header.columns_first or str(header.dtype) not in kinds:
            raise InputError(
                f"{path}: holds {header.dtype} {list(header.shape)} where the set has {' or '.join(kinds)} "
                f"{list(shape)}; make the set again"
            )
        return cls.of(path, header, "make the set again")

    @classmethod
    def of(cls, path: Path, header: Header, remedy: str) -> Self:
        """The table that a header tells of, its entries as they are on disk.

        Raises:
            InputError: the file is not as long as its header says; `remedy` ends the message.
        """
        n, width = header.shape
        file = cls(path, (n, width), header.dtype, header.start, header.stamp, header.dtype)
        if header.stamp.size != header.start + file.nbytes:
            raise InputError(
                f"{path}: {header.stamp.size:,} bytes long, not the {header.start + file.nbytes:,} of its "
                f"{n:,} rows; {remedy}"
            )
        return file

    def read_as(self, dtype: str) -> Self:
        """The same table, its entries converted when they are read."""
        return replace(self, dtype=np.dtype(dtype))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows as they are read."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of the rows as a new array [n, width]: a slice, or row numbers from 0 on in any order.

        Raises:
            InputError: the file is missing or was changed since it was opened.
            IndexError: a row number outside the file.
        """
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            if step == 1:
                found = np.empty((max(0, end - first), self.shape[1]), self.dtype)
                self.read_into(first, found)
                return found
            rows = np.arange(first, end, step)
        return self._numbered(rows)

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Fill `out` [m, width], contiguous and of this file's type, with the rows from number `first` on.

        Raises:
            InputError: the file is missing or was changed since it was opened.
            IndexError: rows beyond the end of the file.
        """
        self._check_range(first, first + len(out) - 1)
        with self._unchanged() as stream:
            self._fill(stream, first, out)

    def check_unchanged(self) -> None:
        """Look at the file without reading it.

        Raises:
            InputError: it is missing or was changed since it was opened.
        """
        with self._unchanged():
            pass

    def _numbered(self, rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        if not len(rows):
            return found
        self._check_range(int(ascending[0]), int(ascending[-1]))
        # Neighbours come with one read; a row asked for twice begins anew.
        starts = np.flatnonzero(np.diff(ascending, prepend=ascending[0] - 2) != 1)
        with self._unchanged() as stream:
            for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
                self._fill(stream, int(ascending[start]), found[start:end])
        given = np.empty_like(order)
        given[order] = np.arange(len(rows))
        return found if (order[:-1] < order[1:]).all() else found[given]

    def _check_range(self, first: int, last: int) -> None:
        if first < 0 or last >= len(self):
            raise IndexError(f"{self.path}: rows {first} to {last} asked for, there are 0 to {len(self) - 1}")

    @contextmanager
    def _unchanged(self) -> Iterator[FileIO]:
        """The open file, which nobody wrote to since the set was opened, nor while it is read here."""
        with _opened(self.path) as stream:
            self._check(stream)
            yield stream
            self._check(stream)

    def _check(self, stream: FileIO) -> None:
        if Stamp.of(os.fstat(stream.fileno())) != self.stamp:
            raise _changed(self.path)

    def _fill(self, stream: FileIO, first: int, out: np.ndarray) -> None:
        row_bytes = self.shape[1] * self.on_disk.itemsize
        if self.on_disk != out.dtype:
            at_once = max(1, _CONVERTED_BYTES // row_bytes)
            for done in range(0, len(out), at_once):
                piece = np.empty((min(at_once, len(out) - done), self.shape[1]), self.on_disk)
                self._fill(stream, first + done, piece)
                out[done : done + len(piece)] = piece
            return
        into = out.view(np.uint8).reshape(-1).data
        stream.seek(self.start + first * row_bytes)
        filled = 0
        while filled < len(into):  # the system reads at most 2 GiB at once
            n = stream.readinto(into[filled:])
            if not n:
                raise _changed(self.path)
            filled += n


@dataclass(frozen=True)
class StoredBlock:
    """A shard on disk: `values` and, of sparse codes, `indices`. Rows of it are a `Block` in memory."""

    values: ShardFile
    indices: ShardFile | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> Block:
        return Block(**{part: file[rows] for part, file in self.arrays.items()})

    @property
    def arrays(self) -> dict[str, ShardFile]:
        """The files, by the name of what they hold."""
        return {"values": self.values} | ({} if self.indices is None else {"indices": self.indices})

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(file.nbytes for file in self.arrays.values())

    def read_into(self, first: int, out: Block) -> None:
        """Fill a block with the rows from number `first` on; errors as of `ShardFile.read_into`."""
        for part, file in self.arrays.items():
            file.read_into(first, out.arrays[part])

    def check_unchanged(self) -> None:
        """Look at the files without reading them; errors as of `ShardFile.check_unchanged`."""
        for file in self.arrays.values():
            file.check_unchanged()


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    try:
        with open(path, "rb", buffering=0) as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file, and the feature set needs it; put it back or make it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the disk") from None


def _changed(path: Path) -> InputError:
    return InputError(
        f"{path}: changed since the feature set was opened; open it again when nothing writes to it"
    )
