"""What a device says when it fails, turned into one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from monosem.core.errors import MonosemError, first_line

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
        said = first_line(error)
        if isinstance(error, torch.OutOfMemoryError) or any(sign in said for sign in _OUT_OF_MEMORY):
            raise MonosemError(f"{doing}: out of memory; {remedy}") from error
        if any(sign in said for sign in _LOST):
            raise MonosemError(
                f"{doing}: the device failed ({said}); the same command goes on from the last checkpoint"
            ) from error
        if "DataLoader worker" in said:
            raise MonosemError(
                f"{doing}: a process that decodes images died ({said}); if memory or /dev/shm is short, "
                "set data.workers lower"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise MonosemError(
                f"{doing}: torch.compile failed ({said}); set pretrain.compile to off"
            ) from error
        raise
