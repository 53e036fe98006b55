"""The feature sets of one encoder pair: the dense baseline, the monosemantic methods and every control.

Each set is a transform, fitted on training outputs, of the projector output of one of the two encoders, so it
extends to any test image, noisy ones included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from monosem.core.seeding import stream_seed
from monosem.encoders.backbones import Encoder
from monosem.experiments.results import BASELINE, METHODS
from monosem.measures.geometry import effective_dimension, l0
from monosem.robust import controls
from monosem.robust.controls import Transform
from monosem.sparse.sae import SparseAutoencoder

_IMITATIONS = ("rotated", "spectrum-of", "pca-l0-of", "pca-dim-of", "random-topk-like")
"""Controls that exist once for each method, named `control-method`."""

FEATURE_SETS = (
    BASELINE,
    *METHODS,
    "relu",
    "crelu",
    *(f"{control}-{method}" for control in _IMITATIONS for method in METHODS),
    "ncl-before-relu",
    "sae-reconstruction",
)
"""The baseline, the methods, then the controls."""


@dataclass(frozen=True)
class Outputs:
    """Projector outputs of one encoder: training images [N, D], test images [M, D], noisy test images."""

    train: Tensor
    test: Tensor
    noisy: Sequence[Tensor]


class FeatureBank:
    """Makes any feature set of one pair; what is fitted is fitted once.

    Args:
        outputs: of both encoders, {"simclr": ..., "ncl": ...}.
        ncl: the NCL encoder, for its non-negative form.
        sae: the sparse autoencoder trained on the SimCLR outputs.
        seed: of the random rotations and dictionaries.
    """

    def __init__(
        self, outputs: Mapping[str, Outputs], ncl: Encoder, sae: SparseAutoencoder, seed: int
    ) -> None:
        self._outputs = outputs
        self._ncl = ncl
        self.sae = sae
        self._seed = seed
        self._transform = cache(self._fit)
        self._of_method = cache(lambda method: self._transform(method)(self._source(method).train))
        self.make = lru_cache(maxsize=1)(self._make)
        """The feature set of a name, float32 [., D'], for the training, test and noisy test images."""

    @torch.no_grad()
    def _make(self, name: str) -> Outputs:
        source, transform = self._source(name), self._transform(name)
        return Outputs(
            transform(source.train), transform(source.test), [transform(z.float()) for z in source.noisy]
        )

    def _source(self, name: str) -> Outputs:
        return self._outputs["ncl" if name in ("ncl", "rotated-ncl", "ncl-before-relu") else "simclr"]

    def _fit(self, name: str) -> Transform:
        dense = self._outputs["simclr"].train
        fixed: dict[str, Transform] = {
            BASELINE: _identity,
            "ncl": self._ncl.features,
            "sae": self.sae.encode,
            "relu": controls.relu,
            "crelu": controls.crelu,
            "ncl-before-relu": _identity,
            "sae-reconstruction": self.sae,
        }
        if name in fixed:
            return fixed[name]
        control, _, method = name.rpartition("-")
        features = self._of_method(method)
        width = features.shape[1]
        seed = stream_seed(self._seed, "control", name)
        match control:
            case "rotated":
                rotate, unrotated = controls.rotation(width, seed), self._transform(method)
                return lambda z: rotate(unrotated(z))
            case "spectrum-of":
                return controls.spectrum_matched(dense, features)
            case "pca-l0-of":
                return controls.pca(dense, _between(1, l0(features), dense.shape[1]))
            case "pca-dim-of":
                return controls.pca(dense, _between(1, effective_dimension(features), dense.shape[1]))
            case "random-topk-like":
                k = _between(1, l0(features), width)
                return controls.random_topk(dense.mean(dim=0), width, k, seed)
        raise KeyError(name)


def _identity(outputs: Tensor) -> Tensor:
    return outputs


def _between(low: int, wanted: float, high: int) -> int:
    return max(low, min(high, round(wanted)))
