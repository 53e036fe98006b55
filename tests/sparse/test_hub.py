"""The Hugging Face Hub, played by a folder: nothing here uses the network."""

import fnmatch
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from monosem.core.errors import InputError, MonosemError
from monosem.sparse.hub import pull_from_hub, push_to_hub
from monosem.sparse.model_card import model_card
from monosem.sparse.sae import SAE
from monosem.sparse.saelens import load_saelens, save_saelens

pytest.importorskip("huggingface_hub")

Drawn = Callable[..., SAE]


class FolderHub:
    """Stands for huggingface_hub.HfApi; repositories are folders under `root`, the cache lies beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[dict[str, Any]] = []
        self.token: str | None = None

    def __call__(self, token: str | None = None, **_: Any) -> "FolderHub":
        self.token = token
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append({"private": private})
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str]
    ) -> SimpleNamespace:
        self.calls.append({"message": commit_message})
        for path in self.list_repo_files(repo_id):
            if any(fnmatch.fnmatch(path, pattern) for pattern in delete_patterns):
                (self.root / repo_id / path).unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append({"revision": revision})
        snapshot = self.root / "cache" / repo_id
        for path in self.list_repo_files(repo_id):
            if any(fnmatch.fnmatch(path, pattern) for pattern in allow_patterns):
                (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / repo_id / path, snapshot / path)
        return str(snapshot)

    def list_repo_files(self, repo_id: str, revision: str | None = None) -> list[str]:
        folder = self.root / repo_id
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    hub = FolderHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    return hub


def test_what_was_pushed_comes_back_as_it_was(hub: FolderHub, trained: SAE, test_features: Tensor) -> None:
    address = push_to_hub(trained, "me/sae", token="secret", message="First")
    assert address == "https://huggingface.co/me/sae/commit/1"
    assert hub.token == "secret"
    assert hub.calls == [{"private": True}, {"message": "First"}]
    back = pull_from_hub("me/sae", revision="main")
    assert hub.calls[-1] == {"revision": "main"}
    assert torch.equal(back.encode(test_features), trained.encode(test_features))
    assert (back.settings, back.trained_on) == (trained.settings, trained.trained_on)
    fetched = {path.name for path in (hub.root / "cache").rglob("*") if path.is_file()}
    assert fetched == {"config.json", "weights.safetensors", "checksums.json"}


def test_the_same_lies_beside_it_in_saelens_layout(
    hub: FolderHub, trained: SAE, test_features: Tensor
) -> None:
    push_to_hub(trained, "me/sae")
    for there in (load_saelens(hub.root / "me/sae/saelens"), pull_from_hub("me/sae", folder="saelens")):
        assert torch.allclose(there.encode(test_features), trained.encode(test_features), atol=1e-5)


def test_pushing_again_replaces_the_sae_and_leaves_other_files(hub: FolderHub, drawn: Drawn) -> None:
    push_to_hub(drawn("topk"), "me/sae")
    (hub.root / "me/sae/notes.md").write_text("mine")
    (hub.root / "me/sae/monosem/old.json").write_text("of another version")
    push_to_hub(drawn("relu"), "me/sae")
    assert pull_from_hub("me/sae").settings.activation == "relu"
    assert (hub.root / "me/sae/notes.md").read_text() == "mine"


def test_saes_of_others_are_pulled_from_their_folder_or_the_top(
    hub: FolderHub, drawn: Drawn, test_features: Tensor
) -> None:
    sae = drawn("jump_relu")
    save_saelens(sae, hub.root / "them/many/layer_3/width_24")
    save_saelens(sae, hub.root / "them/one")
    for found in (
        pull_from_hub("them/many", folder="layer_3/width_24"),
        pull_from_hub("them/one", folder="."),
    ):
        assert torch.allclose(found.encode(test_features), sae.encode(test_features), atol=1e-5)
    with pytest.raises(
        InputError, match="no SAE in its folder monosem; give folder=, one of layer_3/width_24"
    ):
        pull_from_hub("them/many")
    (hub.root / "them/none").mkdir()
    with pytest.raises(InputError, match="no SAE in its folder monosem; and nowhere else in it"):
        pull_from_hub("them/none")


def test_a_damaged_download_is_refused(hub: FolderHub, drawn: Drawn) -> None:
    push_to_hub(drawn("topk"), "me/sae")
    weights = hub.root / "me/sae/monosem/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged"):
        pull_from_hub("me/sae")


def http_error(kind: str, status: int) -> Exception:
    from huggingface_hub import errors

    error = getattr(errors, kind).__new__(getattr(errors, kind))
    Exception.__init__(error, "first line\nRequest ID: 7")
    error.response = SimpleNamespace(status_code=status)
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (lambda: http_error("RepositoryNotFoundError", 404), InputError, "no such repository, or not one"),
        (lambda: http_error("GatedRepoError", 403), InputError, "no such repository, or not one"),
        (lambda: http_error("RevisionNotFoundError", 404), InputError, "no such revision"),
        (lambda: http_error("HfHubHTTPError", 403), InputError, "this token may not do that"),
        (lambda: http_error("HfHubHTTPError", 503), MonosemError, "the Hub answers first line; try again"),
        (lambda: ConnectionError("no route\nmore"), MonosemError, r"cannot be reached \(no route\)"),
    ],
)
def test_what_the_hub_answers_is_one_line(
    hub: FolderHub,
    drawn: Drawn,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    kind: type[MonosemError],
    message: str,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error()

    monkeypatch.setattr(hub, "snapshot_download", fails)
    monkeypatch.setattr(hub, "upload_folder", fails)
    for ask in (lambda: pull_from_hub("me/sae"), lambda: push_to_hub(drawn("topk"), "me/sae")):
        with pytest.raises(MonosemError, match=f"me/sae: .*{message}") as caught:
            ask()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_offline_is_said_in_one_line_by_the_real_library(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for ask in (lambda: pull_from_hub("me/sae"), lambda: push_to_hub(drawn("topk"), "me/sae", token="t")):
        with pytest.raises(
            MonosemError, match=r"me/sae: the Hub cannot be reached \(.*without HF_HUB_OFFLINE"
        ):
            ask()


def test_a_name_that_is_none_is_refused_by_the_real_library(drawn: Drawn) -> None:
    with pytest.raises(InputError, match="'a/b/c': no name of a repository"):
        pull_from_hub("a/b/c")
    with pytest.raises(InputError, match="'a/b/c': no name of a repository"):
        push_to_hub(drawn("topk"), "a/b/c")


def test_without_the_library_the_extra_is_named(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: pull_from_hub("me/sae"), lambda: push_to_hub(drawn("topk"), "me/sae")):
        with pytest.raises(InputError, match=r"pip install 'monosem\[hub\]'"):
            ask()


def test_the_card_says_what_it_is_and_how_to_load_it(trained: SAE) -> None:
    card = model_card(trained, "me/sae", "cc-by-4.0")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert "sparse-autoencoder" in yaml.safe_load(head)["tags"]
    assert body.startswith("\n# sae\n")
    for line in (
        "| Input dimension | 12 |",
        "| Latents | 24 |",
        "| Activation | TopK, k = 4 |",
        f"| Inputs are | divided by one scale, {float(trained.input_scale):.4g} |",
        f"| Latents that no training sample activates | {trained.n_dead} (",
        f"| Trained on | features of SHA-256 `{trained.trained_on}` |",
        "| Epochs | 40 |",
        f"| loss | {trained.history[-1]['loss']:.4g} |",
        'monosem.pull_from_hub("me/sae")',
        'SAE.from_pretrained("me/sae", "saelens")',
        "codes = sae.encode(features)  # [N, 12] -> [N, 24]",
    ):
        assert line in body, line


def test_the_card_of_an_sae_of_unknown_origin_claims_nothing(drawn: Drawn) -> None:
    sae = drawn("jump_relu", "layer")
    sae.trained_on = ""
    card = model_card(sae, "me/sae")
    assert "| Trained on | not recorded |" in card
    assert "None has been chosen yet" in card
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
    assert "no training sample" not in card
    assert "At the end of training" not in card
