"""The operations of `monosem.sparse.kernels`, compiled for this machine where it has a compiler.

Built once by PyTorch's own mechanism, and kept in its cache of extensions, or in TORCH_EXTENSIONS_DIR; the
environment variable MONOSEM_OPERATORS=0 does without. Whoever trains takes them only where they are measured
to be faster.
"""

import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from monosem.core.errors import first_line
from monosem.sparse import kernels

SWITCH = "MONOSEM_OPERATORS"
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno"]
_PATIENCE = 300.0
"""Seconds that another process may take to build them."""
_FAILURES = (RuntimeError, OSError, ImportError)


def announce(notice: Callable[[str], None]) -> None:
    """Say so if the next call of `compiled` is one that takes a minute."""
    if why_not() or compiled.cache_info().currsize:
        return
    with suppress(*_FAILURES):  # `compiled` tells of these
        name, folder = _build()
        if not (folder / f"{name}.so").exists():
            notice("compiling products of sparse codes for this machine, once: about half a minute")


@cache
def compiled() -> Any:
    """The compiled operators, or None where they cannot be had; the first call may take a minute.

    What keeps them from being built, where a compiler is, is told of in a warning.
    """
    if why_not():
        return None
    try:
        return _built()
    except _FAILURES as error:
        warnings.warn(
            f"{_SOURCE.name} was not compiled ({first_line(error)}); plain PyTorch is used instead",
            stacklevel=2,
        )
        return None


class _Build(NamedTuple):
    """What the library is called that is built, and where."""

    name: str
    folder: Path


def _build() -> _Build:
    from torch.utils import cpp_extension

    # Where the source lies is part of the build: two installations would build over each other.
    facts = [str(_SOURCE), torch.__version__, sys.version, _processor(), *_FLAGS]
    name = f"monosem_{hashlib.sha256(_SOURCE.read_bytes() + repr(facts).encode()).hexdigest()[:12]}"
    return _Build(
        name, Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()) / name
    )


def _built() -> Any:
    """The operators, built by one process while others wait."""
    from torch.utils import cpp_extension

    name, folder = _build()
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), FileLock(folder / "monosem.lock", timeout=_PATIENCE):
        warnings.simplefilter("ignore")  # of versions of compilers, and of several processors
        # PyTorch's own lock is a file that is there: what a killed process left would be waited for for ever.
        (folder / "lock").unlink(missing_ok=True)
        cpp_extension.load(
            name,
            [str(_SOURCE)],
            extra_cflags=[*_FLAGS, f"-DMONOSEM_LIBRARY={name}"],
            build_directory=str(folder),
            is_python_module=False,
        )
    return getattr(torch.ops, name)


def _processor() -> str:
    """What instructions there are: homes, and caches in them, may be shared by several machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def why_not() -> str:
    """What keeps the operators from being built here; empty if nothing does."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if sys.platform != "linux":
        return "only built on Linux"
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++") if name):
        return "no C++ compiler"
    if shutil.which("ninja") is None and find_spec("ninja") is None:
        return "no ninja"
    return ""


def topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `kernels.topk`."""
    if not _fits(values):
        return kernels.topk(values, k)
    found: tuple[Tensor, Tensor] = compiled().topk(values, min(k, values.shape[1]))
    return found


def weighted_rows(
    table: Tensor,
    index: Tensor,
    offsets: Tensor,
    weights: Tensor,
    out: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """As `kernels.weighted_rows`.

    Raises:
        RuntimeError: lengths, offsets or an index that do not fit: nothing is read that is not there.
    """
    if not _fits(table) or (out is not None and not _fits(out)):
        return kernels.weighted_rows(table, index, offsets, weights, out, beta)
    if out is None:
        out, beta = table.new_empty(len(offsets) - 1, table.shape[1]), 0.0
    compiled().weighted_rows(table, index, offsets, weights.contiguous(), out, beta)
    return out


def row_dots(left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    """As `kernels.row_dots`; raises as `weighted_rows`."""
    if not (_fits(left) and _fits(right)):
        return kernels.row_dots(left, rows, right, columns)
    found: Tensor = compiled().row_dots(left, rows, right, columns)
    return found


def _fits(tensor: Tensor) -> bool:
    """Whether the operators take it: what they were not written for goes the plain way."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and compiled() is not None
    )
