"""OpenAI's checkpoints: their forward pass written out here against ours, and files that mean harm."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.sparse.openai_layout import load_openai, save_openai
from monosem.sparse.sae import SAE

D, L, K = 12, 24, 4
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
Drawn = Callable[..., SAE]


def openai_codes_and_outputs(state: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """What OpenAI's Autoencoder makes of inputs `[N, D]`, in float64."""
    normalised = state["activation"] == "TopK"  # as its reader decides
    codes, outputs = [], []
    for row in x.double():
        mean, deviation = (row.mean(), (row - row.mean()).std()) if normalised else (0.0, 1.0)
        z = (row - mean) / (deviation + 1e-5 if normalised else 1.0)
        pre = (
            state["encoder.weight"].double() @ (z - state["pre_bias"].double())
            + state["latent_bias"].double()
        )
        code = pre.relu()
        if normalised:
            code[pre.argsort(descending=True)[state["activation_state_dict"]["k"] :]] = 0
        codes.append(code)
        output = state["decoder.weight"].double() @ code + state["pre_bias"].double()
        outputs.append(output * deviation + mean)
    return torch.stack(codes), torch.stack(outputs)


def assert_same(ours: SAE, x: Tensor, codes: Tensor, outputs: Tensor) -> None:
    exact = copy.deepcopy(ours).double()
    assert torch.equal(exact.encode(x) > 0, codes > 0)
    assert float((exact.encode(x) - codes).abs().max()) <= 1e-6 * float(codes.max())
    assert float((exact(x) - outputs).abs().max()) <= 1e-6 * float(outputs.abs().max())


def state_dict(**change: Any) -> dict[str, Any]:
    """A TopK checkpoint as OpenAI writes it, rows of the decoder of different lengths."""
    random = torch.Generator().manual_seed(3)
    state: dict[str, Any] = {
        "pre_bias": torch.randn(D, generator=random),
        "latent_bias": torch.randn(L, generator=random),
        "stats_last_nonzero": torch.zeros(L, dtype=torch.int64),
        "encoder.weight": torch.randn(L, D, generator=random),
        "decoder.weight": torch.randn(D, L, generator=random),
        "activation": "TopK",
        "activation_state_dict": OrderedDict(k=K, postact_fn="ReLU"),
    }
    return {name: value for name, value in {**state, **change}.items() if value is not None}


@pytest.mark.parametrize(("activation", "input_norm"), [("topk", "layer"), ("relu", "rms"), ("relu", "none")])
def test_openai_gives_the_codes_of_what_we_write_and_they_come_back(
    drawn: Drawn, test_features: Tensor, tmp_path: Path, activation: str, input_norm: str
) -> None:
    sae = drawn(activation, input_norm)
    save_openai(sae, tmp_path / "sae.pt")
    state = torch.load(tmp_path / "sae.pt", weights_only=True)
    # Its reader takes no tensor less and none more.
    assert state.keys() == {*state_dict(), *STATISTICS}
    codes, outputs = openai_codes_and_outputs(state, test_features)
    assert 0 < codes.count_nonzero() < codes.numel()
    assert_same(sae, test_features, codes, outputs)
    back = load_openai(tmp_path / "sae.pt")
    assert_same(back, test_features, codes, outputs)
    assert (back.settings.activation, back.settings.input_norm) == (activation, input_norm)
    if activation == "topk":
        assert back.k == K


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"activation": "ReLU", "activation_state_dict": OrderedDict()},
        {"stats_last_nonzero": None, "latents_activation_frequency": torch.ones(L)},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_openai_writes_gives_its_codes_here(
    test_features: Tensor, tmp_path: Path, change: dict[str, Any], zipped: bool
) -> None:
    state = state_dict(**change)
    torch.save(state, tmp_path / "sae.pt", _use_new_zipfile_serialization=zipped)
    codes, outputs = openai_codes_and_outputs(state, test_features)
    loaded = load_openai(tmp_path / "sae.pt")
    assert_same(loaded, test_features, codes, outputs)
    assert loaded.trained_on == ""


def test_without_an_activation_it_is_relu_as_for_openais_reader(tmp_path: Path) -> None:
    torch.save(state_dict(activation=None, activation_state_dict=None), tmp_path / "sae.pt")
    assert load_openai(tmp_path / "sae.pt").settings.activation == "relu"


@pytest.mark.parametrize(
    ("activation", "input_norm", "message"),
    [
        ("topk", "rms", "cannot hold topk with input_norm rms"),
        ("topk", "none", "cannot hold topk with input_norm none"),
        ("relu", "layer", "cannot hold relu with input_norm layer"),
        ("jump_relu", "none", "no thresholds, so it cannot hold jump_relu"),
        ("batch_topk", "layer", "no thresholds, so it cannot hold batch_topk"),
    ],
)
def test_what_its_reader_would_compute_otherwise_is_not_written(
    drawn: Drawn, tmp_path: Path, activation: str, input_norm: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        save_openai(drawn(activation, input_norm), tmp_path / "sae.pt")
    assert list(tmp_path.iterdir()) == []


class Executes:
    """A pickle of this would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["stats_last_nonzero", "activation", "whole"])
def test_a_checkpoint_that_would_execute_something_is_refused_and_executes_nothing(
    tmp_path: Path, place: str, zipped: bool
) -> None:
    harm = Executes(tmp_path / "executed")
    content = harm if place == "whole" else state_dict(**{place: harm})
    torch.save(content, tmp_path / "sae.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"sae\.pt: damaged, or more than arrays and plain values"):
        load_openai(tmp_path / "sae.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_file_above_does_harm_to_those_who_trust_it(tmp_path: Path) -> None:
    torch.save(state_dict(activation=Executes(tmp_path / "executed")), tmp_path / "sae.pt")
    torch.load(tmp_path / "sae.pt", weights_only=False)["activation"].close()
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_bias": None}, "tensor latent_bias is missing"),
        ({"encoder.weight": None}, r"tensor encoder\.weight is missing"),
        ({"encoder.weight": torch.zeros(L)}, r"encoder\.weight is no matrix"),
        ({"decoder.weight": torch.zeros(L, D)}, r"decoder\.weight has shape \(24, 12\), not \(12, 24\)"),
        ({"pre_bias": torch.zeros(D + 1)}, r"pre_bias has shape \(13,\), not \(12,\)"),
        ({"pre_bias": [0.0] * D}, "pre_bias is no tensor"),
        ({"pre_bias": torch.full((D,), torch.nan)}, "pre_bias holds NaN"),
        ({"decoder.linear.weight": torch.zeros(L, D)}, r"tensor decoder\.linear\.weight is none of"),
        ({"activation": "JumpReLU"}, "activation 'JumpReLU' has no counterpart"),
        ({"activation": "Identity"}, "activation 'Identity' has no counterpart"),
        ({"activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "TopK followed by 'Identity'"),
        ({"activation_state_dict": {}}, r"activation_state_dict\.k is None"),
        ({"activation_state_dict": {"k": L + 1}}, "k=25 is more than its 24 latents"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    torch.save(state_dict(**change), tmp_path / "sae.pt")
    with pytest.raises(InputError, match=rf"sae\.pt: .*{message}"):
        load_openai(tmp_path / "sae.pt")


def test_files_that_are_none_are_refused(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sae\.pt: not readable \(No such file"):
        load_openai(tmp_path / "sae.pt")
    torch.save([torch.zeros(3)], tmp_path / "sae.pt")
    with pytest.raises(InputError, match="not a state dict"):
        load_openai(tmp_path / "sae.pt")
    save_openai(drawn("relu"), tmp_path / "sae.pt")
    (tmp_path / "sae.pt").write_bytes((tmp_path / "sae.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_openai(tmp_path / "sae.pt")
    with pytest.raises(InputError, match="is a folder"):
        save_openai(drawn("relu"), tmp_path)


def test_equal_saes_are_equal_files(drawn: Drawn, tmp_path: Path) -> None:
    for name in ("one.pt", "two.pt"):
        save_openai(drawn("relu"), tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
