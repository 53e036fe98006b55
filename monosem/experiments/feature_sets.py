"""The feature sets of one encoder pair: the dense baseline, the monosemantic methods and every control.

Each set is a transform, fitted on training outputs, of the projector output of one of the two encoders, so it
extends to any test image, noisy ones included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import Literal

import torch
from torch import Tensor

from monosem.core.seeding import stream_seed
from monosem.data.codes import Codes
from monosem.encoders.backbones import Encoder
from monosem.experiments.corrupted_tests import CorruptedTest
from monosem.experiments.results import BASELINE, METHODS
from monosem.measures.blocks import row_blocks
from monosem.measures.geometry import effective_dimension, l0
from monosem.robust import controls
from monosem.robust.controls import Transform
from monosem.sparse.sae import SAE

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

_Making = Callable[[Tensor], Tensor | Codes]

_OF_NCL_ALONE = ("ncl", "rotated-ncl", "ncl-before-relu")


@dataclass(frozen=True)
class Outputs:
    """An encoder's features of training images [N, D], test images [M, D] and corrupted versions of these."""

    train: Tensor
    test: Tensor
    corrupted: Sequence[CorruptedTest]


@dataclass(frozen=True)
class Features:
    """One feature set of the same images; codes of which few are active are held sparse."""

    train: Tensor | Codes
    test: Tensor | Codes
    corrupted: Sequence[CorruptedTest]


def sources(name: str) -> frozenset[str]:
    """What a feature set is made of, among the outputs of "simclr" and "ncl", and the "sae"."""
    if name in _OF_NCL_ALONE:
        return frozenset({"ncl"})
    of_sae = {"sae"} if name.startswith("sae") or name.endswith("-sae") else set()
    of_ncl = {"ncl"} if name.endswith("-ncl") else set()
    return frozenset({"simclr"} | of_sae | of_ncl)


class FeatureBank:
    """Makes any feature set of one pair; what is fitted is fitted once, and only what is asked for is read.

    Args:
        outputs: reads those of an encoder, "simclr" or "ncl".
        ncl: reads the NCL encoder, for its non-negative form.
        sae: reads the sparse autoencoder trained on the SimCLR outputs.
        seed: of the random rotations and dictionaries.
    """

    def __init__(
        self,
        outputs: Callable[[Literal["simclr", "ncl"]], Outputs],
        ncl: Callable[[], Encoder],
        sae: Callable[[], SAE],
        seed: int,
    ) -> None:
        self.outputs = cache(outputs)
        self._ncl = cache(ncl)
        self.sae = cache(sae)
        self._seed = seed
        self._transform = cache(self._fit)
        self._of_method = cache(lambda method: self._transform(method)(self._source(method).train))
        self.make = lru_cache(maxsize=1)(self._make)
        """The feature set of a name, [., D'], for the training, test and corrupted test images."""

    @torch.no_grad()
    def _make(self, name: str) -> Features:
        source, transform = self._source(name), self._transform(name)
        corrupted = [
            replace(version, features=partial(_transformed, version.features, transform))
            for version in source.corrupted
        ]
        return Features(transform(source.train), transform(source.test), corrupted)

    def _source(self, name: str) -> Outputs:
        return self.outputs("ncl" if name in _OF_NCL_ALONE else "simclr")

    def _fit(self, name: str) -> _Making:
        match name:
            case "ncl":
                return self._ncl().features
            case "sae":
                return self.sae().encode_sparse
            case "sae-reconstruction":
                reconstructed = self.sae()
                return lambda z: torch.cat([reconstructed(block) for _, block in row_blocks(z)])
            case "relu":
                return controls.relu
            case "crelu":
                return controls.crelu
        if name in (BASELINE, "ncl-before-relu"):
            return _identity
        control, _, method = name.rpartition("-")
        features = self._of_method(method)
        width = features.shape[1]
        seed = stream_seed(self._seed, "control", name)
        if control == "rotated":
            rotate, unrotated = controls.rotation(width, seed), self._transform(method)
            return lambda z: torch.cat([rotate(block) for _, block in row_blocks(unrotated(z))])
        dense = self.outputs("simclr").train
        match control:
            case "spectrum-of":
                return controls.spectrum_matched(dense, features)
            case "pca-l0-of":
                return controls.pca(dense, _between(1, l0(features), dense.shape[1]))
            case "pca-dim-of":
                return controls.pca(dense, _between(1, effective_dimension(features), dense.shape[1]))
            case "random-topk-like":
                k = _between(1, l0(features), width)
                codes = controls.random_topk(dense.mean(dim=0), width, k, seed)
                return partial(_held_sparse, codes) if 2 * k < width else codes
        raise KeyError(name)


@torch.no_grad()
def _transformed(outputs: Callable[[], Tensor | Codes], transform: _Making) -> Tensor | Codes:
    return transform(outputs()[:].float())


def _held_sparse(codes: Transform, outputs: Tensor) -> Codes:
    return Codes.from_blocks(codes(block) for _, block in row_blocks(outputs))


def _identity(outputs: Tensor) -> Tensor:
    return outputs


def _between(low: int, wanted: float, high: int) -> int:
    return max(low, min(high, round(wanted)))
