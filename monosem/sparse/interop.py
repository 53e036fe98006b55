"""What SAEs of other libraries share with ours: a linear encoder and decoder on inputs as they come.

Ours divides its inputs by one global scale first; theirs do not. So the scale moves into the weights on the
way out, and on the way in it is found again as the common length of the decoder's rows.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings

_SAME_LENGTH = 1e-5
"""Relative spread of the rows' lengths below which it is the rounding of float32."""


class Weights(NamedTuple):
    """pre = (x - bias) @ encoder.T + encoder_bias, and the reconstruction is codes @ decoder + bias.

    x are inputs as they come, or centred and scaled sample by sample. The decoder's rows may have any length.
    """

    encoder: Tensor
    """`[L, D]`."""
    encoder_bias: Tensor
    """`[L]`."""
    decoder: Tensor
    """`[L, D]`."""
    bias: Tensor
    """`[D]`."""
    threshold: Tensor | None = None
    """`[L]`, of activations that have one."""


def weights_of(sae: SAE) -> Weights:
    """The weights (float32, on the CPU) that give the SAE's codes without its input scale."""
    scale = sae.input_scale
    return Weights(
        _plain(sae.encoder / scale),
        _plain(sae.encoder_bias),
        _plain(sae.decoder * scale),
        _plain(sae.b_pre * scale),
        None if sae.threshold is None else _plain(sae.threshold),
    )


def sae_of(weights: Weights, activation: str, k: int | None, *, layer_norm: bool, source: Path) -> SAE:
    """An SAE with the codes and reconstructions of `weights`; `source` opens the messages.

    Rows of one common length become unit rows and an input scale, which changes neither codes nor
    reconstructions. Rows of different lengths stay as they are.

    Raises:
        InputError: k above the latents, or settings that ours do not take.
    """
    n_latents, dim = weights.encoder.shape
    if k is not None and k > n_latents:
        raise InputError(f"{source}: k={k} is more than its {n_latents} latents")
    norm, scale = "layer" if layer_norm else "none", torch.ones(())
    length = common_length(weights.decoder)
    if not layer_norm and length is not None and abs(float(length) - 1) > _SAME_LENGTH:
        norm, scale = "rms", length
    settings = {"n_latents": n_latents, "k": k, "activation": activation, "input_norm": norm}
    sae = SAE(dim, parse(SAESettings, settings, str(source)))
    sae.encoder.data.copy_(weights.encoder * scale)
    sae.encoder_bias.data.copy_(weights.encoder_bias)
    sae.decoder.data.copy_(weights.decoder / scale)
    sae.b_pre.data.copy_(weights.bias / scale)
    sae.input_scale.copy_(scale)
    if sae.threshold is not None and weights.threshold is not None:
        sae.threshold.data.copy_(weights.threshold)
    return sae


def common_length(rows: Tensor) -> Tensor | None:
    """The length of all rows `[L, D]` (0-d), or None where they differ by more than rounding or are zero."""
    lengths = rows.norm(dim=1)
    shortest, longest = lengths.aminmax()
    return lengths.mean() if shortest > 0 and longest <= shortest * (1 + _SAME_LENGTH) else None


def lengths_moved(weights: Weights) -> Weights:
    """The same with unit rows in the decoder: each code takes on the length of its row."""
    lengths = weights.decoder.norm(dim=1)
    divisors = torch.where(lengths > 0, lengths, 1.0)
    return Weights(
        weights.encoder * lengths[:, None],
        weights.encoder_bias * lengths,
        weights.decoder / divisors[:, None],
        weights.bias,
        None if weights.threshold is None else weights.threshold * lengths,
    )


def checked_tensors(
    tensors: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    beside: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The tensors that `shapes` names, as float32; names in `beside` may be there too and are left out.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, no numbers, or holds NaN or infinities.
    """
    known = shapes.keys() | set(beside)
    for name in sorted(shapes.keys() - tensors.keys()):
        raise InputError(f"{source}: tensor {name} is missing")
    for name in sorted(tensors.keys() - known):
        raise InputError(f"{source}: tensor {name} is none of {', '.join(sorted(known))}, so it is not read")
    found = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise InputError(f"{source}: {name} is no tensor of floating-point numbers")
        if tuple(tensor.shape) != shape:
            raise InputError(f"{source}: tensor {name} has shape {tuple(tensor.shape)}, not {shape}")
        if not tensor.isfinite().all():
            raise InputError(f"{source}: tensor {name} holds NaN or infinities")
        found[name] = tensor.detach().float()
    return found


def positive_int(value: Any, name: str, source: Path) -> int:
    """`value` if it is a whole number above zero.

    Raises:
        InputError: it is not, or missing (None).
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{source}: {name} is {value!r}, not a whole number above zero")
    return value


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()
