from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.data.feature_block import Block
from monosem.data.feature_set import FeatureSet
from monosem.sparse.inputs import encode_set, take_rows
from monosem.sparse.sae import SAESettings, SparseAutoencoder
from monosem.sparse.train import fit_sae


def as_set(features: Tensor) -> FeatureSet:
    n_rows = len(features)
    return FeatureSet.from_arrays(features, np.arange(n_rows) % 3, np.arange(n_rows) + 100, name="dense")


def test_rows_are_taken_in_any_order_across_shards() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    shards = (Block(values[:3]), Block(values[3:4]), Block(values[4:]))
    stored = FeatureSet("cut", 2, np.zeros(10, dtype=np.int64), np.arange(10), shards)
    rows = torch.tensor([9, 0, 3, 2, 4, 0])
    expected = torch.from_numpy(values)[rows]
    for features in (stored, values, torch.from_numpy(values)):
        assert torch.equal(take_rows(features, rows), expected)


def test_rows_of_sparse_codes_come_back_dense() -> None:
    indices, values = np.array([[0, 2], [1, 2]]), np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    stored = FeatureSet.from_codes(indices, values, 3, np.zeros(2, dtype=np.int64))
    assert take_rows(stored, torch.tensor([1, 0])).tolist() == [[0, 3, 4], [1, 0, 2]]


def test_arrays_tensors_and_stored_sets_train_the_same_sae(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    as_set(train_features).save(tmp_path / "features")
    short = tiny.replace(epochs=2)
    first, *others = (
        fit_sae(features, short).decoder
        for features in (
            train_features,
            train_features.numpy(),
            as_set(train_features),
            FeatureSet.open(tmp_path / "features"),
        )
    )
    for decoder in others:
        assert torch.equal(decoder, first)


def test_a_set_is_encoded_with_its_labels_and_ids(train_features: Tensor, tiny: SAESettings) -> None:
    dense = as_set(train_features)
    sae = fit_sae(dense, tiny.replace(epochs=1))
    codes = encode_set(sae, dense)
    assert codes.is_sparse
    assert np.array_equal(codes.labels, dense.labels)
    assert np.array_equal(codes.ids, dense.ids)
    assert np.array_equal(codes.dense(), sae.encode(train_features).numpy())


def test_foreign_features_are_refused_unless_asked_for(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    fit_sae(as_set(train_features), tiny.replace(epochs=1)).save(tmp_path / "sae")
    sae = SparseAutoencoder.load(tmp_path / "sae")
    encode_set(sae, as_set(train_features))
    with pytest.raises(InputError, match="feature set dense: not the features this SAE was trained on"):
        encode_set(sae, as_set(test_features))
    held_out = encode_set(sae, as_set(test_features), same_encoder=True)
    assert np.array_equal(held_out.dense(), sae.encode(test_features).numpy())
