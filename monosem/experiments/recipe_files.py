"""Where recipes lie: the YAML files shipped with the package, or one of the user's own. Imports no torch."""

from importlib.resources import files
from pathlib import Path

from monosem.core.errors import InputError
from monosem.core.settings import read_yaml_mapping

_SHIPPED = files("monosem") / "recipes"


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(Path(entry.name).stem for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def recipe_source(name: str) -> str:
    """The YAML of a shipped recipe, or of a file when `name` ends in .yaml.

    Raises:
        InputError: neither exists.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{name}: no readable recipe file there") from None
    if name not in shipped_recipes():
        raise InputError(f"{name}: no recipe of this name; shipped are {', '.join(shipped_recipes())}")
    return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_titles() -> dict[str, str]:
    """Name and title of every shipped recipe."""
    return {name: read_yaml_mapping(recipe_source(name), name)["title"] for name in shipped_recipes()}
