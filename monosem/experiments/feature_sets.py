"""The feature sets of one encoder pair: the dense baseline, the monosemantic methods and every control.

Each set is a transform, fitted on training outputs, of the projector output of one of the two encoders, so it
extends to any test image, noisy ones included.
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from monosem.core.seeding import stream_seed
from monosem.encoders.backbones import Encoder
from monosem.experiments.results import BASELINE, METHODS
from monosem.measures.geometry import effective_dimension, l0
from monosem.robust import controls
from monosem.robust.controls import Transform
from monosem.sparse.sae import SparseAutoencoder

_BY_METHOD = ("rotated", "spectrum-of", "pca-l0-of", "pca-dim-of", "random-topk-like")

FEATURE_SETS = (
    BASELINE,
    *METHODS,
    "relu",
    "crelu",
    *(f"{control}-{method}" for control in _BY_METHOD for method in METHODS),
    "ncl-before-relu",
    "sae-reconstruction",
)
"""The baseline, the methods, then the controls."""


def source_of(name: str) -> str:
    """Which encoder of the pair, "simclr" or "ncl", the feature set `name` is computed from."""
    return "ncl" if name in ("ncl", "rotated-ncl", "ncl-before-relu") else "simclr"


class FeatureBank:
    """Transforms of one pair, fitted when first asked for.

    Args:
        outputs: projector outputs on the training images, {"simclr": [N, D], "ncl": [N, D]}.
        ncl: the NCL encoder, for its non-negative form.
        sae: the sparse autoencoder trained on the SimCLR outputs.
        seed: of the random rotations and dictionaries.
    """

    def __init__(self, outputs: Mapping[str, Tensor], ncl: Encoder, sae: SparseAutoencoder, seed: int) -> None:
        self._outputs = outputs
        self._ncl = ncl
        self._sae = sae
        self._seed = seed
        self.transform = cache(self._fit)
        self._method_features = cache(lambda method: self.transform(method)(outputs[source_of(method)]))

    @torch.inference_mode()
    def apply(self, name: str, outputs: Tensor) -> Tensor:
        """The feature set `name` of projector outputs [N, D] of its encoder: float32 [N, D']."""
        return self.transform(name)(outputs)

    def _fit(self, name: str) -> Transform:
        dense = self._outputs["simclr"]
        fixed: dict[str, Transform] = {
            BASELINE: _identity,
            "ncl": self._ncl.features,
            "sae": self._sae.encode,
            "relu": controls.relu,
            "crelu": controls.crelu,
            "ncl-before-relu": _identity,
            "sae-reconstruction": lambda z: self._sae.decode(self._sae.encode(z)),
        }
        if name in fixed:
            return fixed[name]
        control, _, method = name.rpartition("-")
        features = self._method_features(method)
        seed = stream_seed(self._seed, "control", name)
        match control:
            case "rotated":
                rotate, method_transform = controls.rotation(features.shape[1], seed), self.transform(method)
                return lambda z: rotate(method_transform(z))
            case "spectrum-of":
                return controls.spectrum_matched(dense, features)
            case "pca-l0-of":
                return controls.pca(dense, _at_most(dense.shape[1], float(l0(features))))
            case "pca-dim-of":
                return controls.pca(dense, _at_most(dense.shape[1], float(effective_dimension(features))))
            case "random-topk-like":
                width = features.shape[1]
                k = _at_most(width, float(l0(features)))
                return controls.random_topk(dense.shape[1], width, k, seed, dense.mean(dim=0))
        raise KeyError(name)


def _identity(outputs: Tensor) -> Tensor:
    return outputs


def _at_most(limit: int, wanted: float) -> int:
    return max(1, min(limit, round(wanted)))
