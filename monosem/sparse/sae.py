"""The sparse autoencoder and all its state: weights, input normalisation, what it was trained on.

Gao et al. 2024 ("Scaling and evaluating sparse autoencoders"), section 2 of the paper:
codes = activation(W_enc (z - b_pre) + b_enc), reconstruction = W_dec codes + b_pre, where z is the
normalised input. The paper's activation is ReLU(TopK(.)); training keeps the rows of `decoder` at norm 1.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from monosem.core.artifacts import (
    atomic_folder,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
)
from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.data.codes import Codes
from monosem.measures.blocks import BLOCK_ROWS, Features, as_floats, features_shape, row_blocks
from monosem.sparse.activations import activation
from monosem.sparse.batch_codes import DenseCodes, SparseCodes
from monosem.sparse.sae_settings import SAESettings

_FORMAT = "monosem-sae-1"
_LAYER_EPS = 1e-5
_OUTPUTS_AT_ONCE, _FEWEST_ROWS = 3 * 2**22, 64
"""Of the encoder: room that is used again for every block, as memory that is new each time is slow."""


class SAE(nn.Module):
    """A sparse autoencoder over `dim` inputs; made by `monosem.sparse.train.fit_sae` or `load`.

    Frozen: no parameter asks for a gradient unless it is told to. Raises InputError for a k or a prefix above
    the latents, and for `input_norm` "layer" on a single column.

    Attributes:
        encoder, encoder_bias: `[L, D]`, `[L]`.
        decoder: one unit vector a latent, `[L, D]`.
        b_pre: `[D]`, in normalised space.
        threshold: `[L]`, what batch_topk and jump_relu compare encoder outputs with; None for the others.
        input_scale: what inputs are divided by (`input_norm` "rms").
        firing_counts: rows of the training set that activate each latent `[L]`; of about 2^20 rows, if it has
            more.
        trained_on: fingerprint of the training features.
        history: one dict of readings an epoch.
    """

    threshold: Tensor | None
    input_scale: Tensor
    firing_counts: Tensor

    def __init__(self, dim: int, settings: SAESettings) -> None:
        super().__init__()
        self.settings = settings
        self.dim = dim
        self.n_latents, self.k = settings.latents(dim)
        if self.k > self.n_latents:
            raise InputError(f"sae.k={self.k} is more than the {self.n_latents} latents; choose a smaller k")
        if settings.prefixes and (longest := settings.prefixes[-1]) > self.n_latents:
            raise InputError(
                f"sae.prefixes: {longest} is more than the {self.n_latents} latents; choose smaller ones"
            )
        if settings.input_norm == "layer" and dim == 1:
            raise InputError(
                'sae.input_norm: a single column has no deviation to divide by; use "rms" or "none"'
            )
        self.encoder = nn.Parameter(torch.zeros(self.n_latents, dim), requires_grad=False)
        self.encoder_bias = nn.Parameter(torch.zeros(self.n_latents), requires_grad=False)
        self.decoder = nn.Parameter(torch.zeros(self.n_latents, dim), requires_grad=False)
        self.b_pre = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.activation = activation(settings, dim)
        if self.activation.learns_threshold:
            self.threshold = nn.Parameter(torch.zeros(self.n_latents), requires_grad=False)
        else:
            there = self.activation.has_threshold
            self.register_buffer("threshold", torch.zeros(self.n_latents) if there else None)
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("firing_counts", torch.zeros(self.n_latents, dtype=torch.int64))
        self.trained_on = ""
        self.history: list[dict[str, float]] = []

    @property
    def n_dead(self) -> int:
        """Number of latents that no training row activates."""
        return int((self.firing_counts == 0).sum())

    def normalise(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Inputs `[N, D]` in the space the SAE works in; or what is `like` these inputs, by their moments."""
        shift, scale = self._moments(x if like is None else like)
        # As in SAELens and in OpenAI's code: no sample is divided by nothing, and none grows on its way back.
        return (x - shift) / (scale + _LAYER_EPS if self.settings.input_norm == "layer" else scale)

    def pre_activations(self, z: Tensor) -> Tensor:
        """Normalised inputs `[N, D]` -> encoder outputs before the activation `[N, L]`."""
        return torch.nn.functional.linear(z - self.b_pre, self.encoder, self.encoder_bias)

    def encode(self, x: Tensor | np.ndarray) -> Tensor:
        """Inputs `[N, D]` -> codes `[N, L]`, non-negative; with topk at most k non-zeros a row.

        Raises:
            InputError: another number of columns than the SAE was made for, or no table of real numbers that
                fit the type of its weights.
        """
        pre = self.pre_activations(self.normalise(self._as_inputs(x)))
        return self.activation.codes(DenseCodes, pre, self.k, self.threshold).values

    def encode_sparse(self, x: Features) -> Codes:
        """Inputs `[N, D]` -> codes `[N, L]` held sparse, largest first; never all of them dense.

        Raises:
            InputError: another number of columns than the SAE was made for, or no table of real numbers that
                fit the type of its weights.
        """
        n_rows, _ = features_shape(x)
        rows = min(BLOCK_ROWS, max(_FEWEST_ROWS, _OUTPUTS_AT_ONCE // self.n_latents))
        room = torch.empty(
            min(rows, n_rows), self.n_latents, dtype=self.b_pre.dtype, device=self.b_pre.device
        )
        blocks = (self._sparse_codes(self._as_inputs(block), room) for _, block in row_blocks(x, rows))
        return Codes.joined((codes.padded() for codes in blocks), self.n_latents)

    def decode(self, codes: Tensor, like: Tensor | np.ndarray | None = None) -> Tensor:
        """Codes `[N, L]` -> reconstructions `[N, D]` in the inputs' own space.

        Args:
            like: the inputs of the codes; needed with `input_norm` "layer" alone, whose mean and deviation
                are each sample's own.

        Raises:
            InputError: `input_norm` is "layer" and `like` is missing.
        """
        if like is None and self.settings.input_norm == "layer":
            raise InputError("decode needs like=inputs here: the SAE normalised every sample by itself")
        shift, scale = self._moments(codes if like is None else self._as_inputs(like))
        return (codes @ self.decoder + self.b_pre) * scale + shift

    def forward(self, x: Tensor | np.ndarray) -> Tensor:
        """Inputs `[N, D]` -> their reconstructions `[N, D]`."""
        return self.decode(self.encode(x), like=x)

    @torch.no_grad()
    def reconstruct(self, x: Tensor | np.ndarray) -> tuple[Tensor, SparseCodes]:
        """Inputs `[N, D]` -> their reconstructions `[N, D]` and the codes, which are never dense.

        Raises:
            InputError: another number of columns than the SAE was made for, or no table of real numbers that
                fit the type of its weights.
        """
        inputs = self._as_inputs(x)
        shift, scale = self._moments(inputs)
        codes = self._sparse_codes(inputs)
        (z_hat,) = codes.decode(self.b_pre, self.decoder, [self.n_latents])
        return z_hat * scale + shift, codes

    @torch.no_grad()
    def active_counts(self, x: Tensor | np.ndarray) -> Tensor:
        """How many of the inputs `[N, D]` activate each latent, int64 `[L]`."""
        return self._sparse_codes(self._as_inputs(x)).active_counts()

    def save(self, path: Path | str) -> None:
        """Write the SAE as a sealed folder: config.json and weights.safetensors.

        Raises:
            InputError: the folder there holds other files than monosem wrote.
            MonosemError: the disk is full or cannot be written.
        """
        config = {
            "format": _FORMAT,
            "dim": self.dim,
            "settings": self.settings.model_dump(mode="json"),
            "trained_on": self.trained_on,
            "history": self.history,
        }
        with atomic_folder(Path(path)) as draft:
            write_json_atomic(draft / "config.json", config)
            save_tensors(draft / "weights.safetensors", self.state_dict())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read an SAE that `save` wrote, onto the CPU.

        Raises:
            InputError: missing, damaged, of another format, or weights that do not fit the configuration.
        """
        path = Path(path)
        verify_folder(path)
        config: dict[str, Any] = read_json(path / "config.json")
        if config.get("format") != _FORMAT:
            raise InputError(f"{path}: format {config.get('format')!r} is not {_FORMAT}, the one read here")
        sae = cls(config["dim"], parse(SAESettings, config["settings"], f"{path}/config.json"))
        try:
            sae.load_state_dict(load_tensors(path / "weights.safetensors"))
        except RuntimeError as error:
            raise InputError(f"{path}: the weights do not fit config.json ({error})") from None
        sae.trained_on = config["trained_on"]
        sae.history = config["history"]
        return sae

    @torch.no_grad()
    def _sparse_codes(self, x: Tensor, room: Tensor | None = None) -> SparseCodes:
        z = self.normalise(x) - self.b_pre
        pre = torch.addmm(self.encoder_bias, z, self.encoder.T, out=None if room is None else room[: len(z)])
        return self.activation.codes(SparseCodes, pre, self.k, self.threshold)

    def _as_inputs(self, x: Tensor | np.ndarray) -> Tensor:
        inputs = as_floats(x)
        if inputs.ndim != 2 or inputs.shape[1] != self.dim:
            raise InputError(f"this SAE takes features [N, {self.dim}], got shape {tuple(inputs.shape)}")
        inputs = inputs.to(self.b_pre.device)
        converted = inputs.to(self.b_pre.dtype)
        if inputs.dtype == torch.float64 and (converted.isinf() & inputs.isfinite()).any():
            size, kind = float(inputs.abs().max()), str(converted.dtype).removeprefix("torch.")
            raise InputError(f"features are too large: up to {size:.0e}, which {kind} does not hold")
        return converted

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What to subtract from and divide by: scalars, or `[N, 1]` each where every sample has its own."""
        if self.settings.input_norm == "layer":
            deviation, mean = torch.std_mean(x, dim=1, keepdim=True)
            return mean, deviation
        return torch.zeros_like(self.input_scale), self.input_scale
