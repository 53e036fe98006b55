"""SAEs on the Hugging Face Hub: a model card, our own folder, and the same SAE in SAELens' layout beside it.

    README.md    monosem/    saelens/

Needs the extra `hub`. What was downloaded once is read without a network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from monosem import __version__
from monosem.core.errors import InputError, MonosemError, first_line
from monosem.sparse.model_card import model_card
from monosem.sparse.sae import SAE
from monosem.sparse.saelens import load_saelens, save_saelens

_OURS, _SAELENS = "monosem", "saelens"
_SEAL, _SAELENS_CONFIG = "checksums.json", "cfg.json"
_READ = ("config.json", "weights.safetensors", _SEAL, _SAELENS_CONFIG, "sae_weights.safetensors")


def push_to_hub(
    sae: SAE,
    repo_id: str,
    *,
    private: bool = True,
    licence: str | None = None,
    token: str | None = None,
    message: str = "Upload a sparse autoencoder",
) -> str:
    """Upload an SAE in one commit and return the commit's address; a repository that is not there is made.

    An SAE and a model card that are there already are replaced; other files stay.

    Args:
        repo_id: user/name.
        private: of a repository that is made; one that is there stays as visible as it is.
        licence: its identifier on the Hub, such as "apache-2.0", for the card.
        token: one that may write; None: the one of `hf auth login`.

    Raises:
        InputError: the extra `hub` is missing, a name that the Hub does not take, or a token that may not
            write there.
        MonosemError: the Hub cannot be reached, as with HF_HUB_OFFLINE.
    """
    api = _api(token)
    with TemporaryDirectory() as folder:
        draft = Path(folder)
        sae.save(draft / _OURS)
        save_saelens(sae, draft / _SAELENS)
        (draft / "README.md").write_text(model_card(sae, repo_id, licence), encoding="utf-8")
        with _explained(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=draft,
                commit_message=message,
                delete_patterns=[f"{_OURS}/*", f"{_SAELENS}/*"],
            )
    return str(commit.commit_url)


def pull_from_hub(
    repo_id: str, *, revision: str | None = None, folder: str = _OURS, token: str | None = None
) -> SAE:
    """Download an SAE, ours or one of SAELens, onto the CPU; only its own files are fetched.

    Args:
        repo_id: user/name.
        revision: branch, tag or commit; None: the newest.
        folder: where in the repository it lies, "." for its top; what `push_to_hub` wrote lies in "monosem".
        token: for repositories that are not public; None: the one of `hf auth login`.

    Raises:
        InputError: the extra `hub` is missing, no such repository, revision or SAE in it, or an SAE that
            `SAE.load` or `load_saelens` refuses.
        MonosemError: the Hub cannot be reached and the SAE was not downloaded before.
    """
    api = _api(token)
    wanted = [str(PurePosixPath(folder) / name) for name in _READ]
    with _explained(repo_id):
        path = Path(api.snapshot_download(repo_id, revision=revision, allow_patterns=wanted)) / folder
    if (path / _SEAL).is_file():
        return SAE.load(path)
    if (path / _SAELENS_CONFIG).is_file():
        return load_saelens(path)
    with _explained(repo_id):
        files = [PurePosixPath(file) for file in api.list_repo_files(repo_id, revision=revision)]
    places = sorted({str(file.parent) for file in files if file.name in (_SEAL, _SAELENS_CONFIG)})
    instead = f"give folder=, one of {', '.join(places[:10])}" if places else "and nowhere else in it"
    raise InputError(f"{repo_id}: no SAE in its folder {folder}; {instead}")


def _api(token: str | None) -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise InputError("the Hugging Face Hub needs one more package: pip install 'monosem[hub]'") from None
    return HfApi(token=token, library_name="monosem", library_version=__version__)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise InputError(f"{repo_id!r}: no name of a repository; write it as user/name") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repo_id}: no such revision; give a branch, tag or commit that is there") from None
    except errors.RepositoryNotFoundError:  # gated ones too
        raise InputError(
            f"{repo_id}: no such repository, or not one that this token may see; check the name or log in "
            "with `hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"{repo_id}: this token may not do that; log in with `hf auth login` and a token that may"
            ) from None
        raise MonosemError(f"{repo_id}: the Hub answers {first_line(error)}; try again later") from error
    except Exception as error:  # each of the HTTP libraries it has used has errors of its own
        raise MonosemError(
            f"{repo_id}: the Hub cannot be reached ({first_line(error)}); try again with a network and "
            "without HF_HUB_OFFLINE"
        ) from error
