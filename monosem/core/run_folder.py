"""The folder of one run: what was asked, on what machine, with which data, and whether it is complete."""

import json
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from monosem import __version__
from monosem.core.artifacts import append_line, read_json, write_json_atomic
from monosem.core.drafts import sweep_drafts
from monosem.core.errors import InputError

_VERSIONS_OF = ("torch", "numpy", "scipy", "scikit-learn", "pandas")


@dataclass(frozen=True)
class RunFolder:
    """`path` holds one run of one resolved recipe; `manifest.json` says which and whether it is complete.

    `recipe_hash` is over what decides the numbers, which may be less than the whole `recipe`.
    """

    path: Path
    recipe: dict[str, Any]
    recipe_hash: str

    @classmethod
    def claim(cls, path: Path, recipe: dict[str, Any], recipe_hash: str, command: str) -> "RunFolder":
        """Take `path` for this recipe: new, or an earlier, perhaps unfinished, run of the same recipe.

        Raises:
            InputError: the folder holds another run or other files.
        """
        folder = cls(path, recipe, recipe_hash)
        sweep_drafts(path)  # a manifest that a kill cut off is nobody's file
        folder.check()
        folder.write_manifest(command)
        return folder

    def check(self) -> bool:
        """Whether the folder holds this run with its tables complete, without taking it.

        Raises:
            InputError: the folder holds another run or other files.
        """
        path = self.path
        if (path / "manifest.json").exists():
            manifest = read_json(path / "manifest.json")
            if manifest.get("recipe_hash") != self.recipe_hash:
                raise InputError(
                    f"{path}: holds another run; give this one a folder of its own with --out DIR"
                )
            return _has_tables(manifest)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: is not empty and holds no run; give another folder with --out DIR")
        return False

    def write_manifest(self, command: str, **facts: Any) -> None:
        """Write `manifest.json` with the recipe, versions and machine, and `facts`, as not complete yet."""
        manifest = {
            "complete": False,
            "command": command,
            "recipe_hash": self.recipe_hash,
            "versions": installed_versions(),
            "machine": describe_machine(),
            **facts,
            "recipe": self.recipe,
        }
        write_json_atomic(self.path / "manifest.json", manifest)

    def log(self, event: str, **facts: Any) -> None:
        """Add one line to `log.jsonl`: when (UTC), what, and facts about it."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
        append_line(self.path / "log.jsonl", json.dumps(line))


def open_run(path: Path) -> dict[str, Any]:
    """The manifest of a run whose tables are complete.

    Raises:
        InputError: no run there, or one that was not finished.
    """
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: no manifest.json here, so this is no run folder; runs lie under runs/NAME")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or "recipe_hash" not in manifest:
        raise InputError(f"{path / 'manifest.json'}: not the manifest of a run")
    if not _has_tables(manifest):
        raise InputError(f"{path}: this run is not complete; finish it with: {manifest.get('command')}")
    return manifest


def mark_complete(path: Path) -> None:
    """Say in the manifest that the run is complete, reports included.

    Raises:
        InputError: no run there, or one whose tables are missing.
    """
    write_json_atomic(path / "manifest.json", {**open_run(path), "complete": True})


def _has_tables(manifest: dict[str, Any]) -> bool:
    return bool(manifest.get("complete") or manifest.get("tables_complete"))


def installed_versions() -> dict[str, str]:
    """Versions of Python, monosem and the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "monosem": __version__}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def describe_machine() -> dict[str, Any]:
    """The kind of machine, without anything that identifies it."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "python": sys.implementation.name,
    }
