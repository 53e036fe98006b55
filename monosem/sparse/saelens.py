"""SAEs in SAELens' folders, cfg.json and sae_weights.safetensors, as laid out by version 6 and those before.

https://github.com/decoderesearch/SAELens. Codes and reconstructions are the same in both libraries.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem import __version__
from monosem.core.artifacts import (
    atomic_folder,
    check_replaceable,
    load_tensors,
    read_json,
    save_tensors,
    write_json_atomic,
)
from monosem.core.errors import InputError
from monosem.sparse.interop import (
    Weights,
    checked_tensors,
    common_length,
    lengths_moved,
    positive_int,
    sae_of,
    weights_of,
)
from monosem.sparse.sae import SAE

_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_FILES = {_CONFIG, _WEIGHTS, "sparsity.safetensors"}
_LAYOUT = "6.0.0"
"""What `sae_lens_version` has to be at least, or SAELens takes the configuration for one of before 6."""
_WRITTEN_AS = {"topk": "topk", "batch_topk": "jumprelu", "jump_relu": "jumprelu", "relu": "standard"}
_READ_AS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jump_relu",
    # Checkpoints of its training; what it saves for use is jumprelu.
    "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "batch_topk",
}
_WHY_NOT = {
    "expected_average_only_in": "the scale it needs is not in the folder; fold it into the weights with "
    "SAELens' fold_activation_norm_scaling_factor and save again",
    "covariance_whitening": "the matrix it needs is not in the folder; fold it into the weights with "
    "SAELens' fold_activation_whitening and save again",
    "constant_norm_rescale": "it divides each sample by its own length, which the SAEs here do not do",
}


def save_saelens(sae: SAE, folder: Path | str, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an SAE that SAELens loads with `SAE.load_from_disk(folder)`.

    It gives the same codes there on the same inputs: the input scale is folded into the weights. BatchTopK is
    written as JumpReLU with its threshold, as SAELens itself does.

    Args:
        metadata: for SAELens, such as `model_name` and `hook_name`; values that JSON holds.

    Raises:
        InputError: `folder` holds other files than an SAE of SAELens, or metadata that JSON does not hold.
        MonosemError: the disk is full or cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, _FILES)
    activation = sae.settings.activation
    is_topk = activation == "topk"
    config = {
        "architecture": _WRITTEN_AS[activation],
        "d_in": sae.dim,
        "d_sae": sae.n_latents,
        **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if is_topk else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "layer_norm" if sae.settings.input_norm == "layer" else "none",
        "reshape_activations": "none",
        "metadata": {
            **(metadata or {}),
            "sae_lens_version": _LAYOUT,
            "sae_lens_training_version": None,
            "monosem": {
                "version": __version__,
                "trained_on": sae.trained_on,
                "activation": activation,
                "k": sae.settings.k,
            },
        },
    }
    try:
        json.dumps(config)
    except TypeError as error:
        raise InputError(f"{folder}: metadata that JSON does not hold: {error}") from None
    weights = weights_of(sae)
    tensors = {
        "W_enc": weights.encoder.T,
        "b_enc": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.bias,
    }
    if weights.threshold is not None:
        tensors["threshold"] = weights.threshold
    with atomic_folder(folder, sealed=False, guarded=False) as draft:
        write_json_atomic(draft / _CONFIG, config)
        save_tensors(draft / _WEIGHTS, tensors)


def load_saelens(folder: Path | str, *, fold_decoder_norm: bool = False) -> SAE:
    """Read an SAE that SAELens wrote, of version 6 or before, onto the CPU as float32.

    Codes are those that SAELens gives. The rows of its decoder may then have any length, which is right for
    use but not for further training, which makes them unit vectors.

    Args:
        fold_decoder_norm: make them unit vectors here: each code takes on the length of its row, and the
            reconstruction stays.

    Raises:
        InputError: an architecture, activation or normalisation that has no counterpart here, a tensor that
            is missing, unknown or does not fit, k above the latents, or `fold_decoder_norm` where it would
            change which latents are the k largest.
    """
    folder = Path(folder)
    source = folder / _CONFIG
    config = _current(read_json(source), source)
    layer_norm = _is_layer_norm(config["normalize_activations"], source)
    activation = _READ_AS[config["architecture"]]
    tensors = _tensors(folder / _WEIGHTS, config, source)
    encoder, encoder_bias = tensors["W_enc"].T, tensors["b_enc"]
    if not config.get("apply_b_dec_to_input", True):
        # x W + b is (x - b_dec) W + (b + b_dec W).
        encoder_bias = encoder_bias + (encoder.double() @ tensors["b_dec"].double()).float()
    weights = Weights(encoder, encoder_bias, tensors["W_dec"], tensors["b_dec"], tensors.get("threshold"))
    rescaled = config.get("rescale_acts_by_decoder_norm", False) and activation in ("topk", "batch_topk")
    if rescaled:  # codes, and the threshold that they are held against, have the lengths in them already
        weights = lengths_moved(weights)._replace(threshold=weights.threshold)
    elif fold_decoder_norm:
        if activation == "topk":
            _refuse_another_order(weights.decoder, source)
        weights = lengths_moved(weights)
    k = _k(config, source) if activation in ("topk", "batch_topk") else None
    own = _mapping(_mapping(config.get("metadata")).get("monosem"))
    if own.get("activation") == "batch_topk" and activation == "jump_relu":
        activation = "batch_topk"
        k = None if own.get("k") is None else positive_int(own["k"], "metadata.monosem.k", source)
    sae = sae_of(weights, activation, k, layer_norm=layer_norm, source=source)
    sae.trained_on = str(own.get("trained_on", ""))
    return sae


def _current(config: Any, source: Path) -> dict[str, Any]:
    """The configuration in the terms of version 6, whichever version wrote it.

    Before, TopK was an activation function with arguments of its own, and the normalisation could be a bool.
    """
    if not isinstance(config, dict):
        raise InputError(f"{source}: not the configuration of an SAE")
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if function == "topk" and architecture == "standard":
        architecture = "topk"
    if not isinstance(architecture, str) or architecture not in _READ_AS:
        raise InputError(f"{source}: architecture {architecture!r} is none of {', '.join(_READ_AS)}")
    if function != "relu" and (function, architecture) != ("topk", "topk"):
        raise InputError(f"{source}: activation {function!r} has no counterpart here; relu and topk have one")
    k = config.get("k", _mapping(config.get("activation_fn_kwargs")).get("k"))
    normalisation = config.get("normalize_activations") or "none"
    if normalisation is True:
        normalisation = "expected_average_only_in"
    return {**config, "architecture": architecture, "k": k, "normalize_activations": normalisation}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_layer_norm(normalisation: Any, source: Path) -> bool:
    if normalisation in ("none", "layer_norm"):
        return bool(normalisation == "layer_norm")
    reason = _WHY_NOT.get(str(normalisation), "only none and layer_norm are known here")
    raise InputError(f"{source}: normalize_activations is {normalisation!r}: {reason}")


def _k(config: dict[str, Any], source: Path) -> int:
    k = config["k"]
    if config["architecture"] != "topk" and isinstance(k, float):
        k = max(1, round(k))  # of BatchTopK it is an average
    return positive_int(k, "k", source)


def _tensors(path: Path, config: dict[str, Any], source: Path) -> dict[str, Tensor]:
    """W_enc `[D, L]`, b_enc `[L]`, W_dec `[L, D]`, b_dec `[D]` and, where there is one, threshold `[L]`."""
    tensors = load_tensors(path)
    dim, n_latents = (positive_int(config.get(name), name, source) for name in ("d_in", "d_sae"))
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (dim, n_latents),
        "b_enc": (n_latents,),
        "W_dec": (n_latents, dim),
        "b_dec": (dim,),
    }
    scaling = tensors.get("scaling_factor")
    if scaling is not None and bool((scaling == 1).all()):
        del tensors["scaling_factor"]  # some versions wrote one that does nothing
    activation = _READ_AS[config["architecture"]]
    if activation == "jump_relu":
        if "log_threshold" in tensors and "threshold" not in tensors:
            tensors["threshold"] = tensors.pop("log_threshold").exp()
        shapes["threshold"] = (n_latents,)
    if activation == "batch_topk":
        shapes["topk_threshold"] = ()
    found = checked_tensors(tensors, shapes, path)
    if activation == "batch_topk":
        found["threshold"] = torch.full((n_latents,), float(found.pop("topk_threshold")))
    return found


def _refuse_another_order(decoder: Tensor, source: Path) -> None:
    if common_length(decoder) is None:
        shortest, longest = decoder.norm(dim=1).aminmax()
        raise InputError(
            f"{source}: the decoder's rows have lengths from {float(shortest):.3g} to {float(longest):.3g}, "
            "and folding them in would change which latents are the k largest; load it without "
            "fold_decoder_norm"
        )
