"""Files and folders that are complete or absent: atomic, checksummed, never pickled.

A folder is written beside its place under a temporary name, sealed with `checksums.json` and renamed;
a reader therefore never meets half of one. Contents are on the disk before the name is, so that this holds
after a power cut too. Tensors are safetensors, arrays are .npy, the rest is JSON.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from monosem.core.drafts import draft_names, flush, flush_name, new_draft
from monosem.core.errors import InputError, MonosemError

_CHECKSUMS = "checksums.json"
_NOT_OF_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@contextmanager
def atomic_folder(path: Path, *, sealed: bool = True, guarded: bool = True) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, sealed, when the block ends well, and vanishes otherwise.

    An existing `path` is replaced only at the end.

    Args:
        sealed: with `checksums.json`; False for layouts of others, who would change files and not the seal.
        guarded: refuse what `check_replaceable` does; False where nobody but monosem has files, or where the
            caller has looked.

    Raises:
        InputError: `path` holds what may not be replaced.
        MonosemError: the disk is full or cannot be written.
    """
    if guarded:
        check_replaceable(path)
    draft, replaced = draft_names(path)
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_draft(draft, Path.mkdir):
                yield draft
                if sealed:
                    write_json_atomic(draft / _CHECKSUMS, _digests(draft))
                flush(draft)
                if guarded:  # once more: what is written may have taken hours
                    check_replaceable(path)
                if path.exists():
                    path.rename(replaced)
                draft.rename(path)
            flush_name(path)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` that becomes it when the block ends well, and vanishes otherwise.

    Raises:
        MonosemError: the disk is full or cannot be written.
    """
    draft, _ = draft_names(path)
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_draft(draft, Path.touch):
                yield draft
                flush(draft)
                draft.replace(path)
            flush_name(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def check_replaceable(path: Path, names: Collection[str] | None = None) -> None:
    """Make sure that a folder written at `path` takes the place of nothing that somebody else put there.

    Nothing may be there, an empty folder, or one of no other files than those in `names`: by default of those
    that its own list of checksums names, damaged or not.

    Raises:
        InputError: something else is there.
    """
    if not path.name:
        raise InputError(f"{path}: cannot be replaced; give a folder of its own")
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: is a file; give a folder of its own")
    if names is None:
        if not (path / _CHECKSUMS).is_file() and any(path.iterdir()):
            raise InputError(f"{path}: holds files that monosem did not write; give a folder of its own")
        names = _listed(path)
    for file in path.rglob("*"):
        is_folder = file.is_dir() and not file.is_symlink()
        name = file.relative_to(path).as_posix()
        if not is_folder and file.name != _CHECKSUMS and name not in names:
            raise InputError(f"{path}: holds {name}, which would be lost; give a folder of its own")


def verify_folder(path: Path, unread: Collection[str] = ()) -> None:
    """Compare every file of a sealed folder with its recorded checksum.

    Of the files named in `unread` only that they belong to the folder is looked at.

    Raises:
        InputError: the folder is no artifact, or a file is missing, added, damaged or unreadable (named).
    """
    if not (path / _CHECKSUMS).is_file():
        raise InputError(f"{path}: no {_CHECKSUMS} here, so it is not a complete monosem artifact")
    recorded = read_json(path / _CHECKSUMS)
    if not isinstance(recorded, dict):
        raise InputError(f"{path / _CHECKSUMS}: damaged; delete {path} and make it again")
    try:
        actual = _digests(path, {name: recorded.get(name, "") for name in unread})
    except OSError as error:
        raise InputError(f"{error.filename}: not readable ({error.strerror}); delete {path}") from None
    for name in sorted(recorded.keys() | actual.keys()):
        if recorded.get(name) != actual.get(name):
            state = "missing" if name not in actual else "damaged" if name in recorded else "not part of it"
            raise InputError(f"{path / name}: {state}; delete {path} and make it again")


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file that is complete or absent."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file; half a line, which a power cut or a full disk may have left, goes."""
    with _explained(path), open(path, "a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        if stream.read() not in (b"", b"\n"):
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(f"{line}\n".encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON (readable, keys in the given order) that is complete or absent."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors as one safetensors file, complete or absent."""
    with atomic_file(path) as draft:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        InputError: missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def fingerprint_arrays(*arrays: np.ndarray | torch.Tensor) -> str:
    """SHA-256 over the type, shape and bytes of the arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        if isinstance(array, torch.Tensor) and array.dtype in _NOT_OF_NUMPY:
            kind, shape = str(array.dtype), tuple(array.shape)
            values = array.detach().cpu().flatten().view(torch.uint8).numpy()
        else:
            values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
            kind, shape = values.dtype.str, values.shape
        digest.update(f"{kind}{shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one line that names the place."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        # Of a full disk numpy says only "1000 requested and 500 written".
        words = () if code is not None else ("No space left", "requested and")
        if code in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in words):
            raise MonosemError(
                f"{path}: the disk is full; free some space and run the same command"
            ) from error
        blamed = Path(getattr(error, "filename", None) or path)
        if code in (errno.EACCES, errno.EPERM, errno.EROFS) and blamed.is_relative_to(path.parent):
            raise MonosemError(f"{path}: may not be written here; choose a folder of your own") from error
        raise


def _listed(folder: Path) -> Collection[str]:
    """The files that the checksums of a folder name; none where the list is missing or damaged."""
    try:
        recorded = read_json(folder / _CHECKSUMS)
    except InputError:
        return ()
    return recorded if isinstance(recorded, dict) else ()


def _digests(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Checksums of all files below a folder by their names there; those `known` are taken as given."""
    names = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _CHECKSUMS
    }
    return {name: (known or {}).get(name) or fingerprint_file(file) for name, file in names.items()}
