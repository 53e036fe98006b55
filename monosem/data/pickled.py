"""Reads pickles that hold plain data and numpy arrays, and nothing that could run code."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.core.errors import InputError


def _latin1_bytes(text: str, _encoding: str) -> bytes:
    """Stands for `_codecs.encode`, through which Python 3 writes bytes in protocols below 3."""
    return text.encode("latin1")


# An array names its own rebuilders, wherever this version of numpy keeps them.
_RECONSTRUCT = np.empty(0).__reduce_ex__(2)[0]
_FROM_BUFFER = np.empty(1).__reduce_ex__(5)[0]

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): _latin1_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that finds nothing but what numpy arrays are made of."""

    def __init__(self, content: bytes, path: Path) -> None:
        # Python 2 wrote the canonical files: its strings, array bytes included, are read as latin1.
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"{self._path}: refused, this pickle calls {module}.{name}, which no image data needs; "
                "take the file from its official source"
            ) from None


def read_plain_pickle(content: bytes, path: Path) -> Any:
    """The object in the pickle `content` of the file `path` (named in messages).

    Raises:
        InputError: the pickle refers to anything but numpy arrays and plain values, or is damaged.
    """
    try:
        return _PlainUnpickler(content, path).load()
    except InputError:
        raise
    except Exception as error:  # damaged opcodes surface as nearly any exception
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: truncated or damaged pickle ({reason}); get the file again") from None


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote to `path`, of either of its formats: tensors, numpy arrays and plain values.

    Raises:
        InputError: the file refers to anything else, or is damaged.
        OSError: the file cannot be opened.
    """
    known: list[Any] = [(value, f"{module}.{name}") for (module, name), value in _ALLOWED.items()]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"]}
    try:
        with torch.serialization.safe_globals([*known, *dtypes]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files surface as nearly any exception, and torch's advice runs code
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(
            f"{path}: damaged, or more than arrays and plain values written by torch.save; "
            "take the file from its official source"
        ) from None
