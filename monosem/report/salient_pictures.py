"""Pictures of what activates dimensions most: those that classes lean on, random ones (Fig. 1a, 4a, 4b)."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monosem.core.artifacts import load_tensors
from monosem.experiments.results import BASELINE, METHODS, SALIENT_COLUMNS, read_table
from monosem.experiments.salient_features import SALIENT_PICTURES, SALIENT_TABLE
from monosem.report.condition_words import at_level
from monosem.report.figure_style import FAINT, STYLE, WIDTH
from monosem.report.section import Plot, Section
from monosem.report.wording import feature_name, share

_PROTOCOL = "published"
_TITLE, _ROW, _WORDS, _CLASS, _BETWEEN = 0.26, 0.78, 0.18, 0.15, 0.25
"""Inches: the title of a column, a row, the words above its pictures, the class below, between columns."""

Pictures = dict[int, NDArray[Any]]
"""Test image -> its pixels, [h, w, 3] or [h, w]."""


class Strip(NamedTuple):
    """A row of pictures: the words above it, the test images, and the class of each."""

    words: str
    samples: list[int]
    classes: list[str]


def salient_pictures(run: Path) -> Iterator[Section]:
    """The section of a run that kept pictures; none otherwise.

    Raises:
        InputError: the table or the pictures are damaged.
    """
    if not (run / SALIENT_PICTURES).exists():
        return
    table = read_table(run / SALIENT_TABLE, SALIENT_COLUMNS, text=("class",))
    first = table[table["encoder_seed"] == table["encoder_seed"].min()]
    held = load_tensors(run / SALIENT_PICTURES)
    pixels = held["pixels"].permute(0, 2, 3, 1).squeeze(-1).numpy()
    pictures = dict(zip(held["rows"].tolist(), pixels, strict=True))
    yield Section(
        "pictures",
        "What activates single dimensions",
        "The test images that activate a dimension most, the most active first, of the first encoder pair"
        " (fewer where fewer activate it):"
        f" dimensions drawn at random, and those that the {_PROTOCOL} probe gives the largest weight for the"
        " classes it is best and worst at. Under each picture its class.",
        (),
        tuple(_plots(first, pictures)),
    )


def _plots(first: pd.DataFrame, pictures: Pictures) -> Iterator[Plot]:
    drawn = first[first["shown"].str.startswith("random")]
    columns = {feature_name(name): _strips(drawn, name, "random") for name in (BASELINE, "ncl")}
    yield Plot(
        "pictures-random",
        partial(pictures_figure, columns, pictures),
        "Test images that activate random dimensions most: SimCLR left, NCL right.",
        "Random dimensions of SimCLR and of NCL, and the matched monosemanticity of each.",
    )
    leaned_on = first[(first["protocol"] == _PROTOCOL) & (first["level"] == first["level"].max())]
    noise = at_level(str(leaned_on["condition"].iloc[0]), float(leaned_on["level"].iloc[0]))
    for name in (BASELINE, *METHODS):
        columns = {
            "classes it is best at": _strips(leaned_on, name, "best"),
            "classes it is worst at": _strips(leaned_on, name, "worst"),
        }
        title = feature_name(name)
        yield Plot(
            f"pictures-{name}",
            partial(pictures_figure, columns, pictures),
            f"{title}: test images that activate the dimensions most which the probe leans on.",
            f"{title}, probe trained under {noise}: the dimension with the largest weight for a class, the"
            " probe's accuracy on the class, and the dimension's matched monosemanticity.",
        )


def _strips(rows: pd.DataFrame, features: str, shown: str) -> list[Strip]:
    chosen = rows[(rows["features"] == features) & rows["shown"].str.startswith(shown)]
    strips = []
    for _, row in chosen.iterrows():
        of_class = (
            "" if shown == "random" else f"{_short(row['class'], 24)}, {share(row['accuracy'], 0)} right: "
        )
        score = "not scored" if pd.isna(row["matched"]) else f"score {row['matched']:.2f}"
        words = f"{of_class}dimension {row['dimension']:.0f}, {score}"
        strips.append(Strip(words, json.loads(row["samples"]), json.loads(row["sample_classes"])))
    return strips


@rc_context(STYLE)
def pictures_figure(columns: dict[str, list[Strip]], pictures: Pictures) -> Figure:
    """Rows of pictures under their words, in titled columns; an empty square for a picture that is gone."""
    most = max(len(strips) for strips in columns.values())
    across = max(len(strip.samples) for strips in columns.values() for strip in strips)
    width, height = WIDTH / len(columns), _TITLE + most * _ROW
    side = min((width - _BETWEEN) / across, _ROW - _WORDS - _CLASS)
    figure = Figure(figsize=(WIDTH, height))
    for column, (title, strips) in enumerate(columns.items()):
        left = column * width
        _write(figure, left, height - 0.16, title, fontsize=9.5, fontweight="bold")
        for number, strip in enumerate(strips):
            top = _TITLE + number * _ROW
            _write(figure, left, height - top - 0.12, strip.words, fontsize=7.5)
            for place, (sample, of_class) in enumerate(zip(strip.samples, strip.classes, strict=True)):
                x, y = left + place * side, height - top - _WORDS - side
                box = (x / WIDTH, y / height, 0.92 * side / WIDTH, 0.92 * side / height)
                _draw(figure.add_axes(box, frameon=False), pictures.get(sample), of_class)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text at inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, parse_math=False, **style)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _draw(axes: Axes, pixels: NDArray[Any] | None, of_class: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(_short(of_class, 8), fontsize=5.5, labelpad=1.5, parse_math=False)
    if pixels is None:
        axes.set_frame_on(True)
        axes.set_facecolor(FAINT)
    else:
        axes.imshow(pixels, cmap="gray_r" if pixels.ndim == 2 else None, vmin=0, vmax=255)
