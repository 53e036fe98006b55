"""SAEs in the layout of OpenAI's checkpoints: one state dict written by torch.save.

https://github.com/openai/sparse_autoencoder, `Autoencoder.from_state_dict`. That reader decides by the
activation alone whether inputs are layer-normalised: those of TopK are, those of ReLU are not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monosem.core.artifacts import atomic_file
from monosem.core.errors import InputError
from monosem.data.pickled import read_torch_file
from monosem.sparse.interop import Weights, checked_tensors, positive_int, sae_of, weights_of
from monosem.sparse.sae import SAE

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def save_openai(sae: SAE, path: Path | str) -> None:
    """Write an SAE that `Autoencoder.from_state_dict(torch.load(path))` of sparse_autoencoder reads.

    It gives the same codes there. Statistics of its latents are written as of one that has seen no samples.

    Raises:
        InputError: the layout does not hold this SAE (TopK without layer norm, ReLU with it, activations with
            thresholds), or `path` is a folder.
        MonosemError: the disk is full or cannot be written.
    """
    path = Path(path)
    activation, norm = sae.settings.activation, sae.settings.input_norm
    if activation not in ("topk", "relu"):
        raise InputError(
            f"{path}: OpenAI's layout has no thresholds, so it cannot hold {activation}; use SAELens'"
        )
    if (activation == "topk") != (norm == "layer"):
        raise InputError(
            f"{path}: OpenAI's layout layer-normalises the inputs of TopK and of no other activation, so it "
            f"cannot hold {activation} with input_norm {norm}; use SAELens'"
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder; OpenAI's layout is one file")
    weights = weights_of(sae)
    state = {
        "pre_bias": weights.bias.contiguous(),
        "latent_bias": weights.encoder_bias.contiguous(),
        "stats_last_nonzero": torch.zeros(sae.n_latents, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(sae.n_latents),
        "latents_mean_square": torch.zeros(sae.n_latents),
        "encoder.weight": weights.encoder.contiguous(),
        "decoder.weight": weights.decoder.T.contiguous(),
        "activation": "TopK" if activation == "topk" else "ReLU",
        "activation_state_dict": {"k": sae.k, "postact_fn": "ReLU"} if activation == "topk" else {},
    }
    # Given a name, torch writes that of the draft into the file; given a stream, equal SAEs are equal bytes.
    with atomic_file(path) as draft, open(draft, "wb") as stream:
        torch.save(state, stream)


def load_openai(path: Path | str) -> SAE:
    """Read an OpenAI checkpoint onto the CPU as float32; nothing in it is executed.

    Codes are those that `Autoencoder.from_state_dict` gives. The rows of its decoder may have any length.

    Raises:
        InputError: no such file, damaged, or one that would execute something; a tensor that is missing,
            unknown or does not fit, an activation that has no counterpart here, or k above the latents.
    """
    path = Path(path)
    try:
        state = read_torch_file(path)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{path}: not a state dict")
    tensors = dict(state)
    activation = tensors.pop("activation", "ReLU")
    arguments = tensors.pop("activation_state_dict", {})
    k = _k(activation, arguments, path)
    encoder = tensors.get("encoder.weight", torch.zeros(0, 0))  # a missing one is named below
    if not isinstance(encoder, torch.Tensor) or encoder.ndim != 2:
        raise InputError(f"{path}: encoder.weight is no matrix [latents, inputs]")
    n_latents, dim = encoder.shape
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (n_latents, dim),
        "latent_bias": (n_latents,),
        "decoder.weight": (dim, n_latents),
        "pre_bias": (dim,),
    }
    found = checked_tensors(tensors, shapes, path, beside=_STATISTICS)
    weights = Weights(
        found["encoder.weight"], found["latent_bias"], found["decoder.weight"].T, found["pre_bias"]
    )
    return sae_of(weights, "topk" if k else "relu", k, layer_norm=k is not None, source=path)


def _k(activation: Any, arguments: Any, path: Path) -> int | None:
    """k of TopK; None for ReLU."""
    if activation == "ReLU":
        return None
    if activation != "TopK" or not isinstance(arguments, Mapping):
        raise InputError(f"{path}: activation {activation!r} has no counterpart here; ReLU and TopK have one")
    after = arguments.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise InputError(f"{path}: TopK followed by {after!r} has no counterpart here; ReLU has one")
    return positive_int(arguments.get("k"), "activation_state_dict.k", path)
