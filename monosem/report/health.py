"""What this installation can do: versions, devices, disk, and what is missing for which extra."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

from monosem.core.run_folder import installed_versions


def health_report() -> str:
    """Lines about versions, devices, disk space here and the optional extras."""
    versions = "  ".join(f"{name} {number}" for name, number in installed_versions().items())
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    lines = [
        f"versions  {versions}",
        f"processor {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
        f"device    {_accelerator()}",
        f"disk      {free:.1f} GB free under {Path.cwd()}",
    ]
    for extra, packages in _extras().items():
        missing = [name for name in packages if not _installed(name)]
        hint = f"missing {', '.join(missing)}: pip install 'monosem[{extra}]'" if missing else "complete"
        lines.append(f"extra     {extra}: {hint}")
    return "\n".join(lines)


def _accelerator() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({torch.cuda.device_count()} in all)"
    return "no GPU that torch can use; everything runs on the CPU"


def _extras() -> dict[str, list[str]]:
    """Packages of each optional extra, from the installed metadata."""
    extras: dict[str, list[str]] = {}
    for line in requires("monosem") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and "extra" in str(requirement.marker):
            extra = str(requirement.marker).rpartition("extra == ")[2].strip("\"'")
            extras.setdefault(extra, []).append(requirement.name)
    return extras


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
