"""The temporary names under which files and folders are written, and what becomes of those of killed writers.

A writer holds a lock on its draft; the system lets go of it when the process dies, however it dies. So the
drafts that nobody will finish can be told from those that are at work in another process.
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # there drafts carry no lock, and those of killed writers stay
    import fcntl

_UNIQUE = "[0-9a-f]" * 8
_FLUSHED_AT_ONCE = 8
"""A disk takes about as long for eight small files as for one."""


def draft_names(path: Path) -> tuple[Path, Path]:
    """Names beside `path` for what will become it, and for what it was while the two change places."""
    unique = f".{path.name}.{uuid.uuid4().hex[:8]}"
    return path.with_name(f"{unique}.draft"), path.with_name(f"{unique}.replaced")


@contextmanager
def new_draft(draft: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """Let `make` make a draft, file or folder, and hold its lock while the block and this process last."""
    if sys.platform == "win32":
        make(draft)
        yield
        return
    unlocked = draft.with_suffix(".new")  # which no sweep looks for
    make(unlocked)
    descriptor = os.open(unlocked, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(draft)
        yield
    finally:
        os.close(descriptor)


def sweep_drafts(folder: Path) -> None:
    """Remove from `folder` what killed writers left there; what living ones are at work on stays.

    A folder whose replacement was cut short between its two renames is put back.
    """
    for replaced in folder.glob(f".*.{_UNIQUE}.replaced"):
        draft, path = replaced.with_suffix(".draft"), folder / replaced.name[1:].rsplit(".", 2)[0]
        if draft.exists() and not _is_abandoned(draft):
            continue
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(path)
    for draft in folder.glob(f".*.{_UNIQUE}.draft"):
        if not _is_abandoned(draft):
            continue
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or all of a folder, is on the disk: a new name may else get there before it.

    What lies in a draft is left to the draft's own flush.
    """
    if not _is_in_draft(path):
        parts = [path, *path.rglob("*")] if path.is_dir() else [path]
        with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as pool:
            list(pool.map(_flush_one, parts))


def flush_name(path: Path) -> None:
    """Wait until the name of a file or folder is on the disk; in a draft as for `flush`."""
    if not _is_in_draft(path):
        _flush_one(path.parent)


def _is_in_draft(path: Path) -> bool:
    return any(folder.name.startswith(".") and folder.suffix == ".draft" for folder in path.parents)


def _flush_one(path: Path) -> None:
    if path.is_dir():
        with suppress(OSError):  # some file systems cannot be asked for folders
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    else:
        with open(path, "rb+") as stream:
            os.fsync(stream.fileno())


def _is_abandoned(draft: Path) -> bool:
    """Whether nobody holds the lock on a draft."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(draft, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
