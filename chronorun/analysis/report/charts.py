"""The report's pictures: lines over steps, shares of experts, lifelines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chronorun.analysis.reading.fields import figure, shown
from chronorun.analysis.reading.lineage import Life
from chronorun.analysis.reading.series import Point, Series
from chronorun.analysis.report.edits import Edit
from chronorun.analysis.report.gather import LayerData
from chronorun.analysis.report.svg import (
    WIDTH,
    Scale,
    frame,
    path,
    percent,
    picture,
    polyline,
    stretched,
    tag,
    text,
)
from chronorun.lifecycle.record.telling import LETTERS, short_name

LANE = 17
_APART = 1 / 17
"""How far apart along x marks stand at least: so many fit side by side on a telephone."""
_LEVELS = 10
"""Depths of colour in a heat map."""


@dataclass(frozen=True)
class Line:
    """One line of a chart; its class gives colour and dashes. ``behind`` is drawn pale."""

    name: str
    points: Sequence[Point]
    class_: str
    steps: bool = False
    behind: Sequence[Point] = ()

    @classmethod
    def of(cls, name: str, thinned: Series, class_: str) -> Line:
        """Return the line of a series: of its means, and its extremes behind, where it is long."""
        points, means = thinned.points(), thinned.means()
        return cls(name, means, class_, behind=points) if means else cls(name, points, class_)

    @property
    def values(self) -> list[float]:
        """Return all values that are drawn."""
        return [value for _, value in (*self.points, *self.behind)]


class Mark(NamedTuple):
    """Something that happened: a letter in a lane, and what a pointer over it is told."""

    lane: str
    letter: str
    step: float
    words: str


def edit_marks(edits: Sequence[Edit]) -> list[Mark]:
    """Return a mark for each edit, the published actions in their order first."""
    order = {action: rank for rank, action in enumerate(LETTERS)}
    ranked = sorted(edits, key=lambda edit: (order.get(edit.action, len(order)), edit.action))
    return [
        Mark(
            e.kind.lower(),
            e.letter,
            e.at,
            f"step {e.at}: {e.kind} {e.expert_id}",
        )
        for e in ranked
    ]


def line_chart(
    lines: Sequence[Line],
    x: Scale,
    y: Scale,
    height: float,
    label: str,
    marks: Sequence[Mark] = (),
    *,
    cut: bool = False,
) -> str:
    """Return lines over steps; marks stand in lanes above them, one lane a kind.

    ``cut`` tells that values beyond the scale are to be cut off at its end.
    """
    lanes: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        lanes[mark.lane].append(mark)
    top = LANE * len(lanes) + (6 if lanes else 0)
    parts = [frame(x, y, height, top=top)]
    for number, (name, found) in enumerate(lanes.items()):
        parts.append(_lane(name, found, x, LANE * number, top + height))
    paths = "".join(
        path(polyline(line.behind, x, y, height, steps=False), f"pale {line.class_}")
        for line in lines
        if line.behind
    ) + "".join(
        path(polyline(line.points, x, y, height, steps=line.steps), f"line {line.class_}")
        for line in lines
        if line.points
    )
    parts.append(stretched(paths, height, y=top, clip=cut))
    return picture(parts, top + height, label)


def _lane(name: str, marks: Sequence[Mark], x: Scale, y: float, bottom: float) -> str:
    kind = mark_class(marks[0].letter)
    parts = [
        text(name, -8, y + 12, "tick end"),
        tag("line", x1="0", x2="100%", y1=y + 8, y2=y + 8, class_="grid"),
    ]
    for share, found in _gathered(marks, x):
        place = percent(share)
        words = (
            found[0].words if len(found) == 1 else f"{found[0].words}, and {len(found) - 1} more"
        )
        letters = found[0].letter + (str(len(found)) if len(found) > 1 else "")
        parts.append(
            tag("line", x1=place, x2=place, y1=y + 14, y2=bottom, class_=f"drop {kind}")
            + tag(
                "g",
                tag("title", shown(words)) + text(letters, place, y + 12, f"mark {kind}"),
            )
        )
    return "".join(parts)


def _gathered(marks: Sequence[Mark], x: Scale) -> list[tuple[float, list[Mark]]]:
    """Return marks with their mean place, those together whose letters would touch."""
    found: list[tuple[float, list[Mark]]] = []
    for mark in sorted(marks, key=lambda mark: mark.step):
        place = x.at(mark.step)
        if found and place - found[-1][0] < _APART:
            mean, together = found[-1]
            together.append(mark)
            found[-1] = (mean + (place - mean) / len(together), together)
        else:
            found.append((place, [mark]))
    return found


def mark_class(letter: str) -> str:
    """Return the class that colours an action."""
    return f"m{letter}" if letter in LETTERS.values() else "mX"


def heat_map(layer: LayerData, rows: Sequence[str], x: Scale, label: str) -> str:
    """Return experts x checkpoints, deeper where the share is larger, with births and deaths."""
    row_height = 16.0
    height = row_height * len(rows)
    at = {expert_id: row_height * row for row, expert_id in enumerate(rows)}
    parts = [stretched(_cells(layer, at, x, row_height), height)]
    parts.append(frame(x, None, height))
    last = layer.shares.columns[-1].shares() if layer.shares.columns else {}
    lives = layer.lives
    for expert_id, y in at.items():
        words = _life_words(expert_id, lives.get(expert_id, []), last.get(expert_id))
        hover = tag(
            "rect", tag("title", shown(words)), width="100%", height=row_height, y=y, class_="hover"
        )
        parts.append(hover + text(short_name(expert_id), -8, y + 12, "tick end"))
        for life in lives.get(expert_id, []):
            parts.append(_ends(life, x, y + 12))
    return picture(parts, height, label)


def _cells(layer: LayerData, at: dict[str, float], x: Scale, row_height: float) -> str:
    # One path a depth of colour: a map of thousands of cells stays small.
    commands: dict[int, list[str]] = defaultdict(list)
    runs: dict[str, tuple[int, float, float]] = {}

    def close(expert_id: str) -> None:
        level, left, right = runs.pop(expert_id)
        y, width = at[expert_id] + 1, max(right - left, 0.5)
        commands[level].append(
            f"M{left:.1f} {y:.0f}h{width:.1f}v{row_height - 2:.0f}h-{width:.1f}z"
        )

    for column in layer.shares.columns:
        left, right = WIDTH * x.at(column.since), WIDTH * x.at(column.until)
        shares = column.shares()
        for expert_id in [name for name in runs if name not in shares]:
            close(expert_id)
        for expert_id, share in shares.items():
            if expert_id not in at:
                continue
            level = depth(share)
            known = runs.get(expert_id)
            if known is not None and known[0] == level:
                runs[expert_id] = (level, known[1], right)
                continue
            if known is not None:
                close(expert_id)
            runs[expert_id] = (level, left, right)
    for expert_id in list(runs):
        close(expert_id)
    return "".join(path("".join(commands[level]), f"cell h{level}") for level in sorted(commands))


def depth(share: float) -> int:
    """Return how deep a share is coloured: 0 for none at all, else 1 .. 10, by its root."""
    if share <= 0.0:
        return 0
    return min(_LEVELS, 1 + int(share**0.5 * _LEVELS))


def _ends(life: Life, x: Scale, y: float) -> str:
    found = ""
    for step, letter, side in (
        (life.born, life.born_by, "before"),
        (life.died, life.died_by, "after"),
    ):
        if step is not None:
            found += text(letter, percent(x.at(step)), y, f"mark {side} {mark_class(letter)}")
    return found


def _life_words(expert_id: str, lives: Sequence[Life], share: float | None) -> str:
    words = [expert_id]
    for life in lives:
        born = "there from the start" if life.born is None else f"born at step {life.born}"
        words.append(born if life.died is None else f"{born}, gone at step {life.died}")
    if share is not None:
        words.append(f"last share {figure(share, '.3f')}")
    return "; ".join(words)


def lineage(layer: LayerData, rows: Sequence[str], x: Scale, label: str) -> str:
    """Return lifelines: a child hangs on its parent's line, a merged expert ends on another's."""
    row_height = 18.0
    height = row_height * len(rows)
    at = {expert_id: row_height * row + row_height / 2 for row, expert_id in enumerate(rows)}
    lives = layer.lives
    parts = [frame(x, None, height), stretched(_lifelines(lives, at, x), height)]
    for edit in layer.edits:
        link = _link(edit)
        if link is None or link[0] not in at or link[1] not in at:
            continue
        place = percent(x.at(edit.at))
        kind = f"link {mark_class(edit.letter)}"
        parts.append(tag("line", x1=place, x2=place, y1=at[link[0]], y2=at[link[1]], class_=kind))
    for expert_id, y in at.items():
        parts.append(text(short_name(expert_id), -8, y + 4, "tick end"))
        for life in lives.get(expert_id, []):
            parts.append(_ends(life, x, y + 4))
    return picture(parts, height, label)


def _link(edit: Edit) -> tuple[str, str] | None:
    if edit.action == "MERGE" and edit.died:
        return edit.died[0], edit.expert_id
    if edit.born and edit.parent_id is not None and edit.parent_id != edit.born[0]:
        return edit.parent_id, edit.born[0]
    return None


def _lifelines(lives: Mapping[str, Sequence[Life]], at: dict[str, float], x: Scale) -> str:
    commands = []
    for expert_id, y in at.items():
        for life in lives.get(expert_id, []):
            left = WIDTH * x.at(x.low if life.born is None else life.born)
            right = WIDTH * x.at(x.high if life.died is None else life.died)
            commands.append(f"M{left:.1f} {y:.0f}H{right:.1f}")
    return path("".join(commands), "life")
