"""What the feature browser's scripts carry: the columns a set is sorted by, its cards in chunks, its classes.

Features of a set are kept by rank: from the highest first score down, which is how the page first shows them,
so that one chunk and few sprites are enough for what is seen first. Samples come in the order of these cards.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosem.explain.feature_cards import FeatureCards

CHUNK = 100
"""Cards a file: about 50 kB."""

_TOP_CLASSES, _TOP_FEATURES, _LOWEST_FEATURES = 8, 24, 12
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def script(name: str, value: Any) -> str:
    """A script that hands `value` to the page under `name`; nothing in it can end a script or open a tag."""
    # Past ASCII json escapes by itself: U+2028, lone surrogates of undecodable texts.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)
    return f"received({json.dumps(name)},{text});\n"


def ranking(cards: FeatureCards) -> NDArray[np.intp]:
    """Features from the highest first score down, those not scored last; as they are without scores."""
    first = next(iter(cards.scores.values()), np.zeros(len(cards.numbers)))
    return np.argsort(-np.nan_to_num(first, nan=-np.inf), kind="stable")


def shown_samples(sets: Sequence[FeatureCards]) -> NDArray[np.int64]:
    """The samples that some card shows, each once, in the order of the cards of all sets side by side."""
    ranked = [cards.samples[ranking(cards)] for cards in sets]
    ranks = np.concatenate([np.repeat(np.arange(len(part)), part.shape[1]) for part in ranked])
    samples = np.concatenate([part.ravel() for part in ranked])[np.argsort(ranks, kind="stable")]
    samples = samples[samples >= 0]
    _, first = np.unique(samples, return_index=True)
    return samples[np.sort(first)]


def score_scales(sets: Iterable[FeatureCards]) -> list[dict[str, Any]]:
    """Name and range of every score over all sets, so that bars can be compared; 0 to 1 at least."""
    found: dict[str, list[float]] = {}
    for cards in sets:
        for name, values in cards.scores.items():
            scored = values[np.isfinite(values)]
            found.setdefault(name, [0.0, 1.0]).extend([scored.min(), scored.max()] if len(scored) else [])
    return [{"name": name, "low": min(ends), "high": max(ends)} for name, ends in found.items()]


def columns(cards: FeatureCards) -> dict[str, Any]:
    """What a set is sorted and filtered by, lists over features by rank; weight: the largest by size."""
    order = ranking(cards)
    shares = cards.class_shares[order]
    top = np.where(shares.max(1) > 0, shares.argmax(1), -1)
    weights = None if cards.classifier is None else cards.classifier.weights[:, order]
    return {
        "number": cards.numbers[order].tolist(),
        "density": compact(cards.density[order]),
        "scores": [[name, compact(values[order])] for name, values in cards.scores.items()],
        "top": top.tolist(),
        "weight": None if weights is None else compact(np.abs(weights).max(0)),
    }


def card_chunks(cards: FeatureCards, shown: NDArray[np.int64]) -> Iterator[list[dict[str, Any]]]:
    """The cards themselves by rank, some at a time; samples as places in `shown`."""
    order = ranking(cards)
    place = {row: number for number, row in enumerate(shown.tolist())}
    for start in range(0, len(order), CHUNK):
        yield [
            {
                "samples": [place[row] for row in cards.samples[feature].tolist() if row >= 0],
                "activations": compact(cards.activations[feature][cards.samples[feature] >= 0]),
                "histogram": cards.histogram[feature].tolist(),
                "span": compact(cards.span[feature]),
                "classes": _largest(cards.class_shares[feature]),
                "weights": [] if cards.classifier is None else _largest(cards.classifier.weights[:, feature]),
            }
            for feature in order[start : start + CHUNK]
        ]


def classifier_data(cards: FeatureCards) -> dict[str, Any] | None:
    """Of each class its accuracy and, by rank and weight, the features that speak for and against it most."""
    if cards.classifier is None:
        return None
    weights = cards.classifier.weights[:, ranking(cards)]
    order = np.argsort(-weights, axis=1, kind="stable")
    return {
        "title": cards.classifier.title,
        "accuracies": compact(cards.classifier.accuracies),
        "for": [
            [[int(f), _digits(row[f])] for f in best[:_TOP_FEATURES] if row[f] > 0]
            for row, best in zip(weights, order, strict=True)
        ],
        "against": [
            [[int(f), _digits(row[f])] for f in best[::-1][:_LOWEST_FEATURES] if row[f] < 0]
            for row, best in zip(weights, order, strict=True)
        ],
    }


def compact(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers with 4 significant digits; None for nan."""
    return [None if np.isnan(value) else _digits(value) for value in values]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _largest(values: NDArray[np.float64]) -> list[list[float]]:
    """The classes with the largest values by size, the largest first; none that is zero."""
    best = np.argsort(-np.abs(values), kind="stable")[:_TOP_CLASSES]
    return [[int(k), _digits(values[k])] for k in best if values[k] != 0]
