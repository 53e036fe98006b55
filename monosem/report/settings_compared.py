"""In which settings two recipes differ, and a run from what the paper did."""

import json
from typing import Any

from monosem.experiments.recipes import PaperTable, load_recipe

# What is measured beyond Table 1, how often, and how it is computed: none of it moves a number of the table.
_NO_PART_OF_TABLE_1 = (
    "title",
    "paper",
    "seed",
    "n_encoders",
    "n_noise",
    "published_on",
    "tuned.",
    "label_noise.levels",
    "input_noise.",
    "margin",
    "data.root",
    "data.download",
    "data.on_bad_image",
    "data.workers",
    "pretrain.compile",
    "pretrain.channels_last",
    "pretrain.watch_every",
)


def differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The path of every key with another value in two recipes, and both values; None where it is missing."""
    flat_a, flat_b = _flat(a), _flat(b)
    return {
        key: (flat_a.get(key), flat_b.get(key))
        for key in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(key) != flat_b.get(key)
    }


def from_the_papers(recipe: dict[str, Any], paper: PaperTable) -> dict[str, tuple[Any, Any]]:
    """Where a run's resolved recipe differs from the shipped one that follows the paper: (ours, the paper's).

    Keys that only one of them knows belong to another version of monosem and are left out.
    """
    papers = load_recipe(paper).model_dump(mode="json")
    known = set(_flat(recipe)) & set(_flat(papers))
    return {
        key: values
        for key, values in differing(recipe, papers).items()
        if key in known and not key.startswith(_NO_PART_OF_TABLE_1)
    }


def departures_in_words(recipe: dict[str, Any], paper: PaperTable) -> str:
    """One sentence: what a run did otherwise than the paper, as far as settings say."""
    found = [
        f"{key} {_written(ours)} ({_written(papers)})"
        for key, (ours, papers) in from_the_papers(recipe, paper).items()
    ]
    if not found:
        return f"Settings: those of the recipe {paper}, which follows the paper."
    papers = f"those of the recipe {paper} (in brackets), which follows the paper"
    return f"Settings that differ from {papers}: {', '.join(found)}."


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _written(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
