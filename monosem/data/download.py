"""The one place that fetches files from the network: pooch, a checksum, and only the files asked for."""

import logging
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pooch

from monosem.core.errors import InputError, MonosemError


def fetch_from_archive(url: str, md5: str, members: Sequence[str], folder: Path) -> None:
    """Download the tar archive at `url` and put its `members` into `folder` under their base names.

    Each file appears complete or not at all; nothing else of the archive is ever written.

    Raises:
        InputError: the archive's md5 is not `md5`, or it lacks a member.
        MonosemError: the network or the disk fails.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the destination, so that the final rename stays on one disk.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as draft:
            archive = _retrieve(url, md5, Path(draft))
            for member in members:
                _extract(archive, member, folder / PurePosixPath(member).name)
    except OSError as error:
        raise MonosemError(f"{url}: cannot be downloaded into {folder} ({error})") from error


def _retrieve(url: str, md5: str, draft: Path) -> Path:
    try:
        return Path(pooch.retrieve(url, known_hash=f"md5:{md5}", path=draft, fname="archive"))
    except ValueError as error:
        if "hash" not in str(error):
            raise InputError(f"{url}: not an address that can be downloaded ({error})") from None
        raise InputError(f"{url}: the download's md5 is not {md5}; try again or get it by hand") from None


def _extract(archive: Path, member: str, destination: Path) -> None:
    part = archive.with_name(destination.name + ".part")
    try:
        with tarfile.open(archive) as tar:
            source = tar.extractfile(member)
            if source is None:
                raise KeyError(member)
            with source, open(part, "wb") as target:
                shutil.copyfileobj(source, target)
    except (KeyError, tarfile.TarError):
        raise InputError(f"{archive.name}: the downloaded archive holds no file {member}") from None
    part.replace(destination)
