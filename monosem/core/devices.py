"""What a device says when it fails, turned into one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from monosem.core.errors import MonosemError

_LOST = ("CUDA error", "cuDNN error", "CUBLAS", "NCCL error", "device-side assert")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


@contextmanager
def device_errors_explained(doing: str, remedy: str) -> Iterator[None]:
    """Turn a device's failure while `doing` something into a MonosemError; `remedy` is for lack of memory.

    Raises:
        MonosemError: the device ran out of memory or was lost; what had been saved stays.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError and torch.AcceleratorError are RuntimeErrors
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, torch.OutOfMemoryError) or any(sign in said for sign in _OUT_OF_MEMORY):
            raise MonosemError(f"{doing}: out of memory; {remedy}") from error
        if any(sign in said for sign in _LOST):
            raise MonosemError(
                f"{doing}: the device failed ({said}); the same command goes on from the last checkpoint"
            ) from error
        raise
