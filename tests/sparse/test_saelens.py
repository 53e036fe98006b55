"""SAELens' folders: its forward pass written out here, in its own terms, against ours on the same files."""

import copy
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.core.errors import InputError
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.saelens import load_saelens, save_saelens
from monosem.sparse.train import fit_sae

D, L, K = 12, 24, 4
ACTIVATIONS = ["topk", "batch_topk", "jump_relu", "relu"]
Drawn = Callable[..., SAE]


def saelens_codes_and_outputs(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """What SAELens makes of inputs `[N, D]`, in float64."""
    config = json.loads((folder / "cfg.json").read_text())
    weights = {
        name: tensor.double() for name, tensor in load_file(folder / "sae_weights.safetensors").items()
    }
    W_enc, W_dec, b_enc, b_dec = (weights[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    codes, outputs = [], []
    for row in x.double():
        layer_norm = config["normalize_activations"] == "layer_norm"
        mean, deviation = (row.mean(), (row - row.mean()).std()) if layer_norm else (0.0, 1.0)
        z = (row - mean) / (deviation + 1e-5 if layer_norm else 1.0)
        pre = (z - b_dec * config["apply_b_dec_to_input"]) @ W_enc + b_enc
        lengths = W_dec.norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(L)
        pre = pre * lengths
        code = pre.relu()
        if config["architecture"] == "topk":
            code[pre.argsort(descending=True)[config["k"] :]] = 0
        if config["architecture"] == "jumprelu":
            code = code * (pre > weights["threshold"])
        codes.append(code)
        outputs.append(((code / lengths) @ W_dec + b_dec) * deviation + mean)
    return torch.stack(codes), torch.stack(outputs)


def assert_same(ours: SAE, x: Tensor, codes: Tensor, outputs: Tensor) -> None:
    """Ours in float64, so that nothing but the rounding of the weights is left."""
    exact = copy.deepcopy(ours).double()
    assert torch.equal(exact.encode(x) > 0, codes > 0)
    assert float((exact.encode(x) - codes).abs().max()) <= 1e-6 * float(codes.max())
    assert float((exact(x) - outputs).abs().max()) <= 1e-6 * float(outputs.abs().max())


def written_by_saelens(folder: Path, architecture: str, **config: Any) -> Path:
    """A folder as SAELens writes it, rows of the decoder of different lengths."""
    random = torch.Generator().manual_seed(7)
    lengths = torch.linspace(0.3, 3.0, L)[:, None]
    tensors = {
        "W_enc": torch.randn(D, L, generator=random),
        "b_enc": torch.randn(L, generator=random),
        "W_dec": torch.nn.functional.normalize(torch.randn(L, D, generator=random), dim=1) * lengths,
        "b_dec": torch.randn(D, generator=random),
    }
    if architecture == "jumprelu":
        tensors["threshold"] = torch.linspace(-1.0, 2.0, L)
    basic = {
        "d_in": D,
        "d_sae": L,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.49.2", "model_name": "gpt2"},
        "architecture": architecture,
        **({"k": K, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
    }
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({**basic, **config}))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "sae_weights.safetensors")


def change_config(folder: Path, *without: str, **change: Any) -> None:
    config = {**json.loads((folder / "cfg.json").read_text()), **change}
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))


@pytest.mark.parametrize("input_norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saelens_gives_the_codes_of_what_we_write_on_the_same_raw_inputs(
    drawn: Drawn, test_features: Tensor, tmp_path: Path, activation: str, input_norm: str
) -> None:
    sae = drawn(activation, input_norm)
    save_saelens(sae, tmp_path / "sae")
    codes, outputs = saelens_codes_and_outputs(tmp_path / "sae", test_features)
    assert 0 < codes.count_nonzero() < codes.numel()
    assert_same(sae, test_features, codes, outputs)


@pytest.mark.parametrize("input_norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ours_come_back_from_it_as_they_were(
    drawn: Drawn, test_features: Tensor, tmp_path: Path, activation: str, input_norm: str
) -> None:
    sae = drawn(activation, input_norm)
    save_saelens(sae, tmp_path / "sae")
    back = load_saelens(tmp_path / "sae")
    assert (back.settings.activation, back.settings.input_norm) == (activation, input_norm)
    assert back.trained_on == "f00d"
    if activation in ("topk", "batch_topk"):
        assert back.k == sae.k
    assert torch.allclose(back.decoder.norm(dim=1), torch.ones(L), atol=1e-6)
    exact = copy.deepcopy(sae).double()
    assert_same(back, test_features, exact.encode(test_features), exact(test_features))


def test_a_trained_one_comes_back_in_float32_too(trained: SAE, test_features: Tensor, tmp_path: Path) -> None:
    save_saelens(trained, tmp_path / "sae")
    back = load_saelens(tmp_path / "sae")
    difference = (back.encode(test_features) - trained.encode(test_features)).abs().max()
    assert float(difference) <= 2e-6 * float(trained.encode(test_features).max())


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        *product(
            ("topk", "jumprelu", "standard"),
            ({}, {"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"}),
        ),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
    ],
)
def test_what_saelens_writes_gives_its_codes_here(
    test_features: Tensor, tmp_path: Path, architecture: str, config: dict[str, Any]
) -> None:
    folder = written_by_saelens(tmp_path / "sae", architecture, **config)
    codes, outputs = saelens_codes_and_outputs(folder, test_features)
    assert 0 < codes.count_nonzero() < codes.numel()
    loaded = load_saelens(folder)
    assert_same(loaded, test_features, codes, outputs)
    assert loaded.trained_on == ""
    save_saelens(loaded, tmp_path / "again")
    assert_same(loaded, test_features, *saelens_codes_and_outputs(tmp_path / "again", test_features))


@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_lengths_of_rows_can_move_into_the_codes(
    test_features: Tensor, tmp_path: Path, architecture: str
) -> None:
    folder = written_by_saelens(tmp_path / "sae", architecture)
    codes, outputs = saelens_codes_and_outputs(folder, test_features)
    lengths = load_file(folder / "sae_weights.safetensors")["W_dec"].double().norm(dim=1)
    folded = load_saelens(folder, fold_decoder_norm=True)
    assert torch.allclose(folded.decoder.norm(dim=1), torch.ones(L), atol=1e-6)
    assert_same(folded, test_features, codes * lengths, outputs)


def test_lengths_do_not_move_where_others_would_then_win(tmp_path: Path) -> None:
    folder = written_by_saelens(tmp_path / "sae", "topk")
    with pytest.raises(InputError, match="would change which latents are the k largest"):
        load_saelens(folder, fold_decoder_norm=True)
    change_config(folder, rescale_acts_by_decoder_norm=True)
    load_saelens(folder, fold_decoder_norm=True)


def test_a_row_of_zeros_stays_one(test_features: Tensor, tmp_path: Path) -> None:
    folder = written_by_saelens(tmp_path / "sae", "standard")
    change_tensors(folder, lambda tensors: tensors["W_dec"][3].zero_())
    _, outputs = saelens_codes_and_outputs(folder, test_features)
    folded = load_saelens(folder, fold_decoder_norm=True)
    assert not folded.decoder[3].any()
    assert torch.allclose(folded(test_features).double(), outputs, rtol=1e-4, atol=1e-4)


def older_topk(folder: Path) -> None:
    arguments = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "architecture": "standard"}
    change_config(folder, "k", "metadata", "rescale_acts_by_decoder_norm", **arguments)


def older_jumprelu(folder: Path) -> None:
    def logarithm(tensors: dict[str, Tensor]) -> None:
        tensors["log_threshold"] = tensors.pop("threshold").abs().add(0.1).log()

    change_tensors(folder, logarithm)
    change_config(folder, "metadata", activation_fn="relu", hook_point="blocks.0.hook_z")


def older_standard(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update(scaling_factor=torch.ones(L)))
    change_config(folder, "architecture", "metadata", activation_fn_str="relu", normalize_activations=False)


def checkpoint_of_batchtopk(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update(topk_threshold=torch.tensor(0.9).double()))
    change_config(folder, architecture="batchtopk", k=3.6, rescale_acts_by_decoder_norm=True)


@pytest.mark.parametrize(
    ("architecture", "age", "activation"),
    [
        ("topk", older_topk, "topk"),
        ("jumprelu", older_jumprelu, "jump_relu"),
        ("standard", older_standard, "relu"),
        ("standard", checkpoint_of_batchtopk, "batch_topk"),
    ],
)
def test_older_layouts_and_training_checkpoints_are_read(
    test_features: Tensor, tmp_path: Path, architecture: str, age: Callable[[Path], None], activation: str
) -> None:
    today = written_by_saelens(tmp_path / "today", architecture)
    aged = written_by_saelens(tmp_path / "aged", architecture)
    age(aged)
    # What each of them is in today's terms:
    if activation == "jump_relu":
        change_tensors(today, lambda tensors: tensors["threshold"].abs_().add_(0.1))
    if activation == "batch_topk":
        change_config(today, architecture="jumprelu", rescale_acts_by_decoder_norm=True)
        change_tensors(today, lambda tensors: tensors.update(threshold=torch.full((L,), 0.9)))
    loaded = load_saelens(aged)
    assert loaded.settings.activation == activation
    assert_same(loaded, test_features, *saelens_codes_and_outputs(today, test_features))


def test_half_precision_is_read_as_float32(test_features: Tensor, tmp_path: Path) -> None:
    folder = written_by_saelens(tmp_path / "sae", "standard", dtype="bfloat16")
    change_tensors(folder, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    loaded = load_saelens(folder)
    assert loaded.encoder.dtype == torch.float32
    assert_same(loaded, test_features, *saelens_codes_and_outputs(folder, test_features))


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("standard", {"architecture": "gated"}, r"cfg\.json: architecture 'gated' is none of standard, topk"),
        ("standard", {"architecture": ["topk"]}, r"architecture \['topk'\] is none of"),
        ("standard", {"activation_fn_str": "tanh-relu"}, "activation 'tanh-relu' has no counterpart"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "the scale it needs is not in"),
        ("standard", {"normalize_activations": True}, "the scale it needs is not in the folder"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, "by its own length"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "the matrix it needs is not in"),
        ("standard", {"normalize_activations": "other"}, "'other': only none and layer_norm"),
        (
            "standard",
            {"d_in": 13},
            r"sae_weights\.safetensors: tensor W_enc has shape \(12, 24\), not \(13, 24\)",
        ),
        ("standard", {"d_sae": None}, "d_sae is None, not a whole number"),
        ("topk", {"k": L + 1}, r"cfg\.json: k=25 is more than its 24 latents"),
        ("topk", {"k": 0}, "k is 0, not a whole number above zero"),
        ("topk", {"k": "4"}, "k is '4', not a whole number"),
        ("topk", {"k": None}, "k is None"),
    ],
)
def test_configurations_without_a_counterpart_are_refused(
    tmp_path: Path, architecture: str, config: dict[str, Any], message: str
) -> None:
    folder = written_by_saelens(tmp_path / "sae", architecture)
    change_config(folder, **config)
    with pytest.raises(InputError, match=message):
        load_saelens(folder)


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("topk", lambda t: t.pop("b_enc"), "tensor b_enc is missing"),
        ("jumprelu", lambda t: t.pop("threshold"), "tensor threshold is missing"),
        (
            "standard",
            lambda t: t.update(b_gate=torch.zeros(L)),
            "tensor b_gate is none of W_dec, W_enc, b_dec",
        ),
        ("standard", lambda t: t.update(threshold=torch.zeros(L)), "tensor threshold is none of"),
        (
            "standard",
            lambda t: t.update(scaling_factor=torch.full((L,), 2.0)),
            "tensor scaling_factor is none",
        ),
        ("standard", lambda t: t.update(W_dec=t["W_dec"].T.contiguous()), r"W_dec has shape \(12, 24\), not"),
        (
            "standard",
            lambda t: t.update(b_dec=torch.zeros(D, dtype=torch.int64)),
            "b_dec is no tensor of float",
        ),
        ("standard", lambda t: t["W_enc"][0].fill_(torch.nan), "tensor W_enc holds NaN"),
        ("jumprelu", lambda t: t["threshold"].fill_(torch.inf), "tensor threshold holds NaN or infinities"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, architecture: str, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    folder = written_by_saelens(tmp_path / "sae", architecture)
    change_tensors(folder, change)
    with pytest.raises(InputError, match=rf"sae_weights\.safetensors: .*{message}"):
        load_saelens(folder)


def test_folders_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cfg\.json: no such file"):
        load_saelens(tmp_path)
    folder = written_by_saelens(tmp_path / "sae", "standard")
    (folder / "sae_weights.safetensors").write_bytes(b"PK")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_saelens(folder)
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(InputError, match="not the configuration of an SAE"):
        load_saelens(folder)


def test_nothing_but_another_sae_is_replaced(drawn: Drawn, tmp_path: Path) -> None:
    sae = drawn("relu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(InputError, match="give a folder of its own"):
            save_saelens(sae, place)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    earlier = written_by_saelens(tmp_path / "sae", "topk")
    with pytest.raises(InputError, match="metadata that JSON does not hold"):
        save_saelens(sae, earlier, metadata={"model": object()})
    assert load_saelens(earlier).settings.activation == "topk"
    save_saelens(sae, earlier, metadata={"hook_name": "here", "sae_lens_version": "4.0.0"})
    assert load_saelens(earlier).settings.activation == "relu"
    assert sorted(path.name for path in earlier.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    metadata = json.loads((earlier / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "here"
    assert metadata["sae_lens_version"].startswith("6.")  # or SAELens takes it for an older layout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_trained_can_be_trained_on_after_the_way_through_saelens(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    save_saelens(fit_sae(train_features, tiny.replace(epochs=1)), tmp_path / "sae")
    back = load_saelens(tmp_path / "sae")
    assert back.settings.input_norm == "rms"
    assert float(back.input_scale) > 0
    assert torch.allclose(back.decoder.norm(dim=1), torch.ones(L), atol=1e-6)
