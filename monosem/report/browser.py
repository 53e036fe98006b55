"""The feature browser: a folder that opens from disk or any static host, one card a feature.

The page lies in `templates/browser.*`; numbers and texts go beside it as scripts, pictures as sheets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.core.artifacts import atomic_folder, verify_folder
from monosem.core.errors import InputError
from monosem.data.thumbnails import Pictures
from monosem.explain.feature_cards import FeatureCards
from monosem.report.browser_data import (
    CHUNK,
    card_chunks,
    classifier_data,
    columns,
    score_scales,
    script,
    shown_samples,
)
from monosem.report.figure_style import COLOURS
from monosem.report.page import page_templates
from monosem.report.sprites import Sprites, write_sprites
from monosem.report.wording import counted, feature_name, owner_of

_TEXTS_A_FILE = 500
_LONGEST_TEXT = 2000


@dataclass(frozen=True)
class Samples:
    """The N samples that cards show: labels `[N]`, names of the K classes, and pictures or texts.

    pictures: gives those of some rows (see `Pictures`); asked only for samples that some card shows.
    texts: of all samples, `[N]`; what is longer than 2,000 characters is cut there.
    """

    labels: NDArray[np.int64]
    class_names: Sequence[str]
    pictures: Pictures | None = None
    texts: Sequence[str] | None = None


class Browser(NamedTuple):
    """A written browser: the page to open, how many samples it shows and how many of their pictures lack."""

    page: Path
    n_shown: int
    n_missing: int


def write_browser(
    folder: Path, title: str, sets: Sequence[FeatureCards], samples: Samples, *, notes: Sequence[str] = ()
) -> Browser:
    """Write the browser of some feature sets over the same samples; an older one there is replaced whole.

    Args:
        folder: becomes the browser; open its `index.html`.
        title: of the page.
        sets: what there is to show, each under its own name.
        samples: that the sets' sample numbers refer to.
        notes: shown at the top, a paragraph each.

    Raises:
        InputError: no sets, two of one name, sets that do not fit the samples, or a folder of something else.
    """
    _check_samples(samples)
    _check_sets(sets, samples)
    check_replaceable(folder)
    shown = shown_samples(sets)
    with atomic_folder(folder) as draft:
        (draft / "data").mkdir()
        sprites = None
        if samples.pictures is not None:
            sprites = write_sprites(draft / "sprites", shown, samples.pictures)
        if samples.texts is not None:
            _write_texts(draft, [samples.texts[row] for row in shown])
        for number, cards in enumerate(sets):
            _write_set(draft, f"set-{number}", cards, shown)
        _write_script(draft, "index", _index(sets, samples, shown, sprites))
        missing = 0 if sprites is None else len(sprites.missing)
        _write_page(draft, title, [*notes, *_missing_note(missing, len(shown))])
    return Browser(folder / "index.html", len(shown), missing)


def check_replaceable(folder: Path) -> None:
    """Make sure that nothing but an older browser is where a new one is to be.

    Raises:
        InputError: the folder holds something else, or a browser with files added or changed.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        verify_folder(folder)
        is_browser = (folder / "data" / "index.js").is_file()
    except InputError:
        is_browser = False
    if not is_browser:
        raise InputError(
            f"{folder}: holds other files than those of a feature browser; choose another folder"
        )


def _check_samples(samples: Samples) -> None:
    n, n_classes = len(samples.labels), len(samples.class_names)
    if (samples.pictures is None) == (samples.texts is None):
        raise InputError("samples need either pictures or texts to be shown")
    if samples.texts is not None and len(samples.texts) != n:
        raise InputError(f"{n} labels need as many texts, got {len(samples.texts)}")
    if n == 0 or samples.labels.min() < 0 or samples.labels.max() >= n_classes:
        raise InputError(f"labels of samples must be some of 0..{n_classes - 1}, one for each class name")


def _check_sets(sets: Sequence[FeatureCards], samples: Samples) -> None:
    n, n_classes = len(samples.labels), len(samples.class_names)
    if not sets:
        raise InputError("no feature sets to browse; give at least one")
    names = [cards.name for cards in sets]
    if len(set(names)) < len(names):
        raise InputError(f"feature sets need names of their own, got {', '.join(names)}")
    for cards in sets:
        if cards.class_shares.shape[1] != n_classes:
            raise InputError(
                f"{cards.name}: its cards are of {cards.class_shares.shape[1]} classes and the samples of "
                f"{n_classes}; make both from the same labels"
            )
        if cards.samples.size and cards.samples.max() >= n:
            raise InputError(
                f"{cards.name}: its cards show sample {cards.samples.max()}, but samples are 0..{n - 1}; "
                "make all sets from the same samples"
            )


def _index(
    sets: Sequence[FeatureCards], samples: Samples, shown: NDArray[np.int64], sprites: Sprites | None
) -> dict[str, object]:
    """What the page needs to know before it opens a set."""
    return {
        "classes": list(samples.class_names),
        "n_samples": len(samples.labels),
        "rows": shown.tolist(),
        "labels": samples.labels[shown].tolist(),
        "sprites": None if sprites is None else {**sprites._asdict(), "per_sheet": sprites.per_sheet},
        "texts_a_file": _TEXTS_A_FILE,
        "cards_a_file": CHUNK,
        "scales": score_scales(sets),
        "sets": [
            {
                "name": cards.name,
                "title": feature_name(cards.name),
                "colour": COLOURS[owner_of(cards.name)],
                "n_dimensions": cards.n_dimensions,
            }
            for cards in sets
        ],
    }


def _write_set(draft: Path, name: str, cards: FeatureCards, shown: NDArray[np.int64]) -> None:
    _write_script(draft, name, {**columns(cards), "classifier": classifier_data(cards)})
    for number, chunk in enumerate(card_chunks(cards, shown)):
        _write_script(draft, f"{name}-cards-{number}", chunk)


def _write_texts(draft: Path, texts: Sequence[str]) -> None:
    for number, start in enumerate(range(0, len(texts), _TEXTS_A_FILE)):
        part = [
            text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}\N{HORIZONTAL ELLIPSIS}"
            for text in texts[start : start + _TEXTS_A_FILE]
        ]
        _write_script(draft, f"texts-{number}", part)


def _write_script(draft: Path, name: str, value: object) -> None:
    (draft / "data" / f"{name}.js").write_text(script(name, value), encoding="utf-8")


def _write_page(draft: Path, title: str, notes: Sequence[str]) -> None:
    templates = page_templates()
    for template in ("browser.html.j2", "browser.css", "browser.js", "browser_pieces.js"):
        text = templates.get_template(template).render(title=title, notes=notes)
        # Names of files may hold what is no text.
        (draft / template.replace("browser.html.j2", "index.html")).write_bytes(text.encode(errors="replace"))


def _missing_note(missing: int, shown: int) -> list[str]:
    if missing == 0:
        return []
    return [f"{missing:,} of {counted(shown, 'picture')} could not be read; they are shown as grey squares."]
