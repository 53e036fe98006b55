"""Reading files of texts: pairs, prompts, general text. A bad line is named by its number."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monosem.core.errors import InputError
from monosem.llm.chat import Pair


def read_pairs(path: Path) -> list[Pair]:
    """The lines of a JSONL file: objects with instruction and response, or prompt and completion.

    A `context` that is not empty comes before the instruction: what is lost of a long prompt is its
    beginning. Blank lines are passed over.
    Raises InputError for a bad line (named), and for a file without any.
    """
    pairs = [
        _pair(_entry(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in lines_of(path)
    ]
    if not pairs:
        raise InputError(f"{path}: no lines; give one JSON object with both texts a line")
    return pairs


def read_prompts(path: Path) -> list[str]:
    """The lines of a JSONL file: objects with a prompt, or an instruction, each once and in order.

    Raises InputError for a bad line (named), and for a file without any.
    """
    prompts: dict[str, None] = {}
    for number, line in lines_of(path):
        entry = _entry(line, f"{path}, line {number}")
        prompts[_text(entry, ("prompt", "instruction"), f"{path}, line {number}")] = None
    if not prompts:
        raise InputError(f"{path}: no lines; give a prompt as one JSON object a line")
    return list(prompts)


def read_texts(path: Path) -> list[str]:
    """General text: the responses of a JSONL file, else the lines of a text file, each once and in order.

    Raises InputError as `read_pairs`, and for a file without any.
    """
    if path.suffix == ".jsonl":
        return list(dict.fromkeys(pair.response for pair in read_pairs(path)))
    texts = list(dict.fromkeys(line.strip() for _, line in lines_of(path)))
    if not texts:
        raise InputError(f"{path}: no lines; give one text a line")
    return texts


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not a JSON object")
    return entry


def _text(entry: dict[str, Any], names: tuple[str, str], where: str) -> str:
    text = entry.get(names[0], entry.get(names[1]))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: '{names[0]}' (or '{names[1]}') is missing, empty or not a text")
    return text


def _pair(entry: dict[str, Any], where: str) -> Pair:
    instruction = _text(entry, ("instruction", "prompt"), where)
    context = entry.get("context") or ""
    if not isinstance(context, str):
        raise InputError(f"{where}: 'context' is not a text")
    asked = f"{context}\n\n{instruction}" if context.strip() else instruction
    return Pair(asked, _text(entry, ("response", "completion"), where))


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
