"""One integer seeds named, independent random streams (init, order, augment, label_noise, ...).

A stream depends on its seed and its names alone, so adding a stream or drawing more from one of them
changes no other.
"""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed of the stream `names` under `seed`: an integer in [0, 2^63)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for the stream `names`; on the CPU the same bits on every machine of a kind."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream `names`."""
    return np.random.default_rng(stream_seed(seed, *names))
