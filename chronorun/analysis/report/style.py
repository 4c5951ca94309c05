"""The colours of all pictures and pages, by name: on light ground and paper, and on dark ground."""

from __future__ import annotations

from typing import NamedTuple

_COLOURS = {
    "paper": ("#fdfdfc", "#14181d"),
    "card": ("#ffffff", "#1a2026"),
    "ink": ("#1b2530", "#e4e8ec"),
    "soft": ("#5a6673", "#9aa6b2"),
    "rule": ("#e3e6e9", "#2c343c"),
    "idle": ("#eceef0", "#262d35"),
    "blue": ("#1d5c9e", "#7ab8f5"),
    "orange": ("#b4540a", "#f0a35e"),
    "green": ("#11795a", "#5fcba4"),
    "purple": ("#8a3d94", "#d59adf"),
    "teal": ("#0b7285", "#5cc8da"),
    "red": ("#b3243b", "#ff8797"),
}
LIGHT = {name: light for name, (light, _) in _COLOURS.items()}
DARK = {name: dark for name, (_, dark) in _COLOURS.items()}
_MARKS = {"N": "green", "S": "blue", "P": "orange", "M": "purple", "R": "teal", "U": "red"}


class Look(NamedTuple):
    """How a line is drawn: the name of its colour, its dashes in pixels, its width."""

    colour: str
    dashes: str = ""
    width: float = 1.7


SERIES = (Look("blue"), Look("orange", "7 3"), Look("green", "2 3"), Look("purple", "9 3 2 3"))
"""Looks that stay apart for all common kinds of colour blindness, and in print without colour."""


def mark_colour(letter: str) -> str:
    """Return the name of the colour of an action's letter."""
    return _MARKS.get(letter, "soft")


def heat(level: int) -> tuple[str, float]:
    """Return colour and opacity of a depth from 0 to 10; 0 is an expert without a token."""
    return ("blue", round(0.06 + 0.094 * level, 3)) if level else ("idle", 1.0)
