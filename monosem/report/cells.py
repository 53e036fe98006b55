"""A table as data: what stands in its cells, and the exact number behind every number shown."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from monosem.report.wording import NO_VALUE

Write = Callable[[float], str]
"""How a number is written."""


class Piece(NamedTuple):
    """A stretch of text, and the number it stands for where it is one."""

    text: str
    value: float | None = None


Cell = tuple[Piece, ...]


class Row(NamedTuple):
    """A heading and its cells; `flagged` rows ask for the reader's attention."""

    heading: str
    cells: tuple[Cell, ...]
    flagged: bool = False


@dataclass(frozen=True)
class Table:
    """Rows in titled groups under `columns`.

    `spans` (title, number of columns) stand above the columns, `corner` above the headings of the rows.
    """

    caption: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    spans: tuple[tuple[str, int], ...] = ()
    corner: str = ""


def words(text: str) -> Cell:
    """A cell of text."""
    return (Piece(text),)


def number(value: float, write: Write) -> Cell:
    """One number; a dash for NaN."""
    return words(NO_VALUE) if math.isnan(value) else (Piece(write(value), float(value)),)


def bounds(low: float, high: float, write: Write) -> Cell:
    """An interval."""
    return (*number(low, write), Piece(" to "), *number(high, write))


def estimate(mean: float, low: float, high: float, write: Write) -> Cell:
    """A number with its interval, which is left out where it has no bounds."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(mean, write)
    return (*number(mean, write), Piece(" ("), *bounds(low, high, write), Piece(")"))
