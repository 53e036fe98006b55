"""What an SAE is trained on and applied to: plain arrays and feature sets, codes in memory or on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.core.artifacts import check_replaceable, fingerprint_arrays
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.data.codes import Codes
from monosem.data.feature_set import FeatureSet
from monosem.data.feature_writer import FeatureSetWriter
from monosem.data.rows import Inputs
from monosem.measures.blocks import BLOCK_ROWS, row_blocks
from monosem.sparse.sae import SAE


def fingerprint(features: Inputs) -> str:
    """SHA-256 of the contents."""
    return features.fingerprint if isinstance(features, FeatureSet) else fingerprint_arrays(features)


def encode_set(sae: SAE, features: FeatureSet, *, same_encoder: bool = False) -> FeatureSet:
    """The sparse codes of a feature set, in memory, with its labels and ids; `encode_to` writes the same set.

    Args:
        same_encoder: the caller vouches that these are other samples (held out, corrupted) through the
            encoder that made the training features.

    Raises:
        InputError: features other than those the SAE was trained on, and `same_encoder` not given; another
            number of columns.
    """
    _check_encoder(sae, features, same_encoder)
    blocks = [codes for _, codes in _encoded(sae, features)]
    k = _fixed_width(sae) or max(codes.indices.shape[1] for codes in blocks)
    indices, values = (
        torch.cat(parts) for parts in zip(*(_widened(codes, k) for codes in blocks), strict=True)
    )
    return FeatureSet.from_codes(
        indices, values, sae.n_latents, features.labels, features.ids, name=_name(features)
    )


def encode_to(
    sae: SAE,
    features: FeatureSet,
    path: Path | str,
    *,
    same_encoder: bool = False,
    dtype: Literal["float16", "float32"] = "float32",
    watch: Watch = SILENT,
) -> FeatureSet:
    """Write the sparse codes of a feature set as a folder at `path`, complete or not at all, and open it.

    Neither the features nor the codes need to fit in memory: features are read, encoded and written block by
    block. Codes [N, k] have the k of a TopK SAE. What other activations leave has no such bound: features are
    then encoded twice, the first time for the number of non-zeros of the fullest row, and the others are
    filled up with zeros of column 0.

    Args:
        same_encoder: as for `encode_set`.
        dtype: type of the values on disk.

    Raises:
        InputError: as for `encode_set`; files that are missing or were changed; a code too large for float16;
            a folder there that holds other files than monosem wrote.
        MonosemError: the disk is full.
    """
    check_replaceable(Path(path))
    _check_encoder(sae, features, same_encoder)
    n_rows = len(features)
    k = _fixed_width(sae)
    passes = 1 if k else 2
    if not k:
        for rows, codes in _encoded(sae, features):
            k = max(k, codes.indices.shape[1])
            watch.progress(rows.stop, passes * n_rows)
    with FeatureSetWriter.to(path, sae.n_latents, _name(features), dtype) as writer:
        for rows, codes in _encoded(sae, features):
            writer.append_codes(*_widened(codes, k), features.labels[rows], features.ids[rows])
            watch.progress((passes - 1) * n_rows + rows.stop, passes * n_rows)
    return FeatureSet.open(path, verify=False)


def _check_encoder(sae: SAE, features: FeatureSet, same_encoder: bool) -> None:
    if features.fingerprint != sae.trained_on and not same_encoder:
        raise InputError(
            f"feature set {features.name}: not the features this SAE was trained on; "
            "pass same_encoder=True if the same encoder made both"
        )


def _encoded(sae: SAE, features: FeatureSet) -> Iterator[tuple[slice, Codes]]:
    """The codes of consecutive rows, each block as wide as its fullest row."""
    for rows, block in row_blocks(features, BLOCK_ROWS):
        yield rows, sae.encode_sparse(block.to(sae.b_pre.device))


def _fixed_width(sae: SAE) -> int:
    """Non-zeros of a row at most, where the activation bounds them; else 0."""
    return sae.k if sae.settings.activation == "topk" else 0


def _widened(codes: Codes, k: int) -> tuple[Tensor, Tensor]:
    """Indices and values [n, k]; zeros for column 0 leave that as it is."""
    more = (0, k - codes.indices.shape[1])
    return F.pad(codes.indices, more), F.pad(codes.values, more)


def _name(features: FeatureSet) -> str:
    return f"{features.name}-sae"
