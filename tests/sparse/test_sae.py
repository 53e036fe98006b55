from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.core.artifacts import atomic_folder, read_json, write_json_atomic
from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae


def test_defaults_are_the_papers_sae() -> None:
    sae = SAE(2048, SAESettings())
    assert (sae.n_latents, sae.k) == (2048, 256)


def test_more_active_latents_than_latents_are_refused() -> None:
    with pytest.raises(InputError, match=r"sae\.k=9 is more than the 8 latents"):
        SAE(4, SAESettings(n_latents=8, k=9))


def test_prefixes_lie_within_the_latents() -> None:
    settings = SAESettings(n_latents=16, k=2, prefixes=(8, 16))
    assert SAE(4, settings).n_latents == 16
    for wrong in (settings.replace(prefixes=(8, 500)), settings.replace(n_latents=15)):
        with pytest.raises(
            InputError, match=r"sae\.prefixes: (500|16) is more than the 1[56] latents; choose"
        ):
            SAE(4, wrong)


def test_one_column_has_no_deviation_of_its_own() -> None:
    settings = SAESettings(n_latents=4, k=2, input_norm="layer")
    assert SAE(2, settings).dim == 2
    with pytest.raises(InputError, match=r"sae\.input_norm: a single column has no deviation"):
        SAE(1, settings)


def test_a_start_without_a_way_is_refused() -> None:
    assert SAESettings(k=2, k_warmup=0.0).k_at(0, 10, 2) == 2
    assert SAESettings(k=2, k_start=8).k_at(0, 10, 2) == 8
    with pytest.raises(InputError, match=r"given: .*`k_start` needs a `k_warmup` above 0"):
        parse(SAESettings, {"k": 2, "k_start": 8, "k_warmup": 0}, "given")


def test_codes_and_reconstructions_follow_the_formula(trained: SAE, test_features: Tensor) -> None:
    codes, reconstruction = trained.encode(test_features), trained(test_features)
    for row, code, output in zip(test_features, codes, reconstruction, strict=True):
        z = row / trained.input_scale
        pre = trained.encoder @ (z - trained.b_pre) + trained.encoder_bias
        kept = torch.zeros(24)
        for latent in pre.argsort(descending=True)[:4]:
            kept[latent] = max(float(pre[latent]), 0.0)
        assert torch.allclose(code, kept, atol=1e-4)
        z_hat = sum(kept[i] * trained.decoder[i] for i in range(24)) + trained.b_pre
        assert torch.allclose(output, z_hat * trained.input_scale, atol=1e-3)
    assert (codes >= 0).all()
    assert int((codes > 0).sum(dim=1).max()) == 4


def test_sparse_form_is_the_dense_one(trained: SAE, test_features: Tensor) -> None:
    codes = trained.encode_sparse(test_features)
    assert codes.values.shape == codes.indices.shape == (200, 4)
    assert (codes.values.diff(dim=1) <= 0).all()
    assert torch.equal(codes[:], trained.encode(test_features))


def test_codes_of_a_row_do_not_depend_on_its_batch(trained: SAE, test_features: Tensor) -> None:
    alone = torch.cat([trained.encode(row[None]) for row in test_features])
    assert torch.allclose(alone, trained.encode(test_features), atol=1e-5)


def test_arrays_and_tensors_give_the_same_codes(trained: SAE, test_features: Tensor) -> None:
    assert torch.equal(trained.encode(test_features.numpy()), trained.encode(test_features))


def test_gradients_flow_through_to_the_inputs(trained: SAE, test_features: Tensor) -> None:
    x = test_features.clone().requires_grad_()
    trained(x).square().sum().backward()
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_features_of_another_width_are_refused(trained: SAE) -> None:
    with pytest.raises(InputError, match=r"features \[N, 12\], got shape \(5, 11\)"):
        trained.encode(torch.zeros(5, 11))


def test_layer_norm_takes_out_each_samples_own_scale_and_puts_it_back(
    train_features: Tensor, tiny: SAESettings
) -> None:
    sae = fit_sae(train_features, tiny.replace(input_norm="layer"))
    own_scale = torch.linspace(0.5, 50, len(train_features))[:, None]
    moved = train_features * own_scale + 3 * own_scale
    assert torch.allclose(sae.encode(moved), sae.encode(train_features), atol=1e-3)
    expected = sae(train_features) * own_scale + 3 * own_scale
    assert torch.allclose(sae(moved), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="like=inputs"):
        sae.decode(sae.encode(train_features))


def test_an_sae_comes_back_from_disk_as_it_was(trained: SAE, test_features: Tensor, tmp_path: Path) -> None:
    trained.save(tmp_path / "sae")
    loaded = SAE.load(str(tmp_path / "sae"))
    assert torch.equal(loaded(test_features), trained(test_features))
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (loaded.settings, loaded.trained_on) == (trained.settings, trained.trained_on)
    assert loaded.history == trained.history


def test_a_damaged_sae_is_refused(trained: SAE, tmp_path: Path) -> None:
    trained.save(tmp_path / "sae")
    weights = tmp_path / "sae" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged"):
        SAE.load(tmp_path / "sae")


def test_nothing_that_others_wrote_makes_room_for_an_sae(trained: SAE, tmp_path: Path) -> None:
    (tmp_path / "mydata").mkdir()
    (tmp_path / "mydata" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="mydata: holds files that monosem did not write"):
        trained.save(str(tmp_path / "mydata"))
    assert (tmp_path / "mydata" / "thesis.txt").read_text() == "years"
    for _ in range(2):
        trained.save(str(tmp_path / "sae"))
    assert torch.equal(SAE.load(str(tmp_path / "sae")).decoder, trained.decoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": "other"}, "format 'other'"), ({"dim": 13}, "do not fit config.json")],
)
def test_another_format_or_shape_is_refused(
    trained: SAE, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    trained.save(tmp_path / "sae")
    with atomic_folder(tmp_path / "changed") as draft:
        (tmp_path / "sae" / "weights.safetensors").rename(draft / "weights.safetensors")
        write_json_atomic(draft / "config.json", read_json(tmp_path / "sae" / "config.json") | change)
    with pytest.raises(InputError, match=message):
        SAE.load(tmp_path / "changed")
