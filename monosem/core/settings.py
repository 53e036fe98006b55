"""Settings: frozen, strict pydantic models, and how YAML and `--set key=value` become one.

Unknown keys and wrong types are refused with the key's full path, so a misspelt setting can never be
ignored and the string "None" is never taken for null.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from monosem.core.errors import InputError

AnySettings = TypeVar("AnySettings", bound="Settings")


class Settings(BaseModel):
    """Base of every settings class: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like any other settings."""
        return type(self).model_validate({**dict(self), **changes})


def parse(model: type[AnySettings], tree: Any, source: str) -> AnySettings:
    """Validate a nested dict as `model`; `source` (a file, a recipe) opens the message.

    Raises:
        InputError: unknown key, missing key or wrong type, with the key's full path.
    """
    try:
        # YAML knows lists only; strict models hold tuples, so the tree goes through JSON mode.
        return model.model_validate_json(_to_json(tree, source))
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error)}") from None


def with_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of the nested dict with each `a.b=value` of `overrides` set; values are read as YAML.

    Raises:
        InputError: an override without `=`, with an unreadable value or through a key that holds no mapping.
    """
    result = _copy_mappings(tree)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise InputError(f"--set {override}: write it as key=value, for example --set sae.k=64")
        *parents, last = path.strip().split(".")
        node = result
        for depth, key in enumerate(parents):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                where = ".".join(parents[: depth + 1])
                raise InputError(f"--set {override}: {where} holds a value, not a group of settings")
            node = child
        node[last] = _read_yaml(text, f"--set {override}")
    return result


def read_yaml_mapping(text: str, source: str) -> dict[str, Any]:
    """Parse YAML whose top level is a mapping.

    Raises:
        InputError: not YAML, or not a mapping.
    """
    tree = _read_yaml(text, source)
    if not isinstance(tree, dict):
        raise InputError(f"{source}: expected `key: value` lines at the top level")
    return tree


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-4 as a number, as every other tool of the field does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{source}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None


def _copy_mappings(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _copy_mappings(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _to_json(tree: Any, source: str) -> str:
    try:
        return json.dumps(tree)
    except TypeError as error:  # YAML dates and the like
        raise InputError(f"{source}: a value of a type that settings do not take: {error}") from None


def _explain(error: ValidationError) -> str:
    """All problems of a validation in one line, each with the full path of its key."""
    problems = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key `{path}`")
        elif item["type"] == "missing":
            problems.append(f"missing key `{path}`")
        else:
            got = f" (got {item['input']!r})" if not isinstance(item["input"], dict) else ""
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"`{path}`: {message[0].lower()}{message[1:]}{got}")
    return "; ".join(problems)
