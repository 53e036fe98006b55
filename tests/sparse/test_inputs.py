from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.progress import SilentWatch
from monosem.data import feature_writer
from monosem.data.feature_block import Block
from monosem.data.feature_set import FeatureSet
from monosem.data.rows import take_rows
from monosem.sparse import inputs
from monosem.sparse.inputs import encode_set, encode_to
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
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


def test_bfloat16_trains_and_encodes_as_the_float32_of_its_values(
    train_features: Tensor, tiny: SAESettings
) -> None:
    rounded = train_features.bfloat16()
    sae, same = (fit_sae(features, tiny.replace(epochs=1)) for features in (rounded, rounded.float()))
    assert torch.equal(sae.decoder, same.decoder)
    assert torch.equal(sae.encode(rounded), same.encode(rounded.float()))
    assert sae.trained_on != same.trained_on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.tolist(), "got list; numpy.asarray makes an array of a list"),
        (lambda x: x.numpy().astype(np.complex64), "must be real numbers, got complex64"),
        (lambda x: x.double() * 1e100, r"too large: .*e\+10\d, which float32 does not hold"),
    ],
)
def test_features_that_are_none_are_refused_wherever_an_sae_takes_them(
    trained: SAE, train_features: Tensor, tiny: SAESettings, change: Any, message: str
) -> None:
    given = change(train_features)
    uses = (lambda some: fit_sae(some, tiny), trained.encode, trained.encode_sparse, trained.reconstruct)
    for use in uses:
        with pytest.raises(InputError, match=message):
            use(given)


def test_what_is_infinite_already_is_not_called_too_large(trained: SAE, train_features: Tensor) -> None:
    some = train_features[:2].double()
    some[0, 3] = torch.inf
    torch.testing.assert_close(trained.encode(some)[1:], trained.encode(train_features[1:2]))


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
    sae = SAE.load(tmp_path / "sae")
    encode_set(sae, as_set(train_features))
    with pytest.raises(InputError, match="feature set dense: not the features this SAE was trained on"):
        encode_set(sae, as_set(test_features))
    held_out = encode_set(sae, as_set(test_features), same_encoder=True)
    assert np.array_equal(held_out.dense(), sae.encode(test_features).numpy())


class Told(SilentWatch):
    """What a watch was told of the progress."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, **values: float) -> None:
        self.readings.append((done, total))


@pytest.mark.parametrize("bounded", [True, False])
def test_codes_written_block_by_block_are_those_in_memory(
    trained: SAE,
    train_features: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bounded: bool,
) -> None:
    """Also of activations that do not bound how many latents are active."""
    monkeypatch.setattr(inputs, "BLOCK_ROWS", 100)
    monkeypatch.setattr(feature_writer, "SHARD_BYTES", 5000)
    if not bounded:
        monkeypatch.setattr(inputs, "_fixed_width", lambda sae: 0)
    as_set(train_features).save(tmp_path / "features")
    features, watch = FeatureSet.open(tmp_path / "features"), Told()
    written = encode_to(trained, features, tmp_path / "codes", same_encoder=True, watch=watch)
    held = encode_set(trained, features, same_encoder=True)
    passes = 1 if bounded else 2
    assert watch.readings == [(done, 600 * passes) for done in range(100, 600 * passes + 1, 100)]
    assert len(written.shards) > 1
    assert written.codes()[0].shape == (600, trained.k)
    assert written.fingerprint == held.fingerprint == FeatureSet.open(tmp_path / "codes").fingerprint
    np.testing.assert_allclose(written.dense(), trained.encode(train_features).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(written.labels, features.labels)
    np.testing.assert_array_equal(written.ids, features.ids)
    assert (written.name, written.dim) == (held.name, held.dim) == ("dense-sae", trained.n_latents)


def test_codes_go_to_a_place_of_their_own_which_a_string_may_name(
    trained: SAE, train_features: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = as_set(train_features)
    written = encode_to(trained, features, str(tmp_path / "codes"), same_encoder=True)
    held = encode_set(trained, features, same_encoder=True)
    assert written.fingerprint == held.fingerprint
    (tmp_path / "codes" / "notes.txt").write_text("mine")
    monkeypatch.setattr(inputs, "_fixed_width", lambda sae: 0)  # or the writer would look first
    monkeypatch.setattr(inputs, "_encoded", lambda *given: pytest.fail("encoded before it looked"))
    with pytest.raises(InputError, match=r"holds notes\.txt, which would be lost"):
        encode_to(trained, features, str(tmp_path / "codes"), same_encoder=True)


def test_rows_with_fewer_active_latents_than_k_are_filled_up(tmp_path: Path, tiny: SAESettings) -> None:
    sae = SAE(3, tiny.replace(n_latents=3, k=2))
    sae.encoder.copy_(torch.eye(3))
    features = as_set(torch.tensor([[-1.0, -2.0, 3.0], [-1.0, -1.0, -1.0]]))
    for codes in (
        encode_set(sae, features, same_encoder=True),
        encode_to(sae, features, tmp_path / "codes", same_encoder=True),
    ):
        assert codes.codes()[1].tolist() == [[3, 0], [0, 0]]
        assert codes.dense().tolist() == [[0, 0, 3], [0, 0, 0]]


def test_half_precision_codes_are_the_rounded_ones(
    trained: SAE, train_features: Tensor, tmp_path: Path
) -> None:
    features = as_set(train_features)
    half = encode_to(trained, features, tmp_path / "half", same_encoder=True, dtype="float16")
    values = encode_set(trained, features, same_encoder=True).codes()[1]
    assert half.codes()[1].dtype == np.float16
    np.testing.assert_array_equal(half.codes()[1], values.astype(np.float16))
    too_large = as_set(train_features * 1e6)
    with pytest.raises(InputError, match="does not fit float16"):
        encode_to(trained, too_large, tmp_path / "large", same_encoder=True, dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_codes_of_features_that_are_refused_are_not_written(
    trained: SAE, train_features: Tensor, test_features: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not the features this SAE was trained on"):
        encode_to(trained, as_set(test_features), tmp_path / "codes")
    as_set(train_features).save(tmp_path / "features")
    changed = FeatureSet.open(tmp_path / "features")
    (tmp_path / "features/values-00000.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"values-00000\.npy: changed"):
        encode_to(trained, changed, tmp_path / "codes", same_encoder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
