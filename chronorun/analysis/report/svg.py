"""Draws charts as SVG that fits any width: shapes stretch, text and strokes keep their size.

A picture has no viewBox, so that its units are pixels: heights are pixels, places along x are
percent. Paths, which cannot take percent, lie in a nested SVG that is stretched sideways. Margins
lie outside of the picture (``overflow: visible``). Colours are variables of the page's style sheet,
which follow light, dark and print. All text is made harmless and escaped here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from chronorun.analysis.reading.fields import figure
from chronorun.analysis.reading.series import Point
from chronorun.analysis.report.charts import (
    Chart,
    LineChart,
    RowChart,
    Scale,
    Segment,
    gathered,
    short_step,
)
from chronorun.analysis.report.style import Look, heat, mark_colour
from chronorun.core.text import harmless

_WIDTH = 1000
"""Units across of the nested SVG."""
_LANE = 17
_APART = 1 / 17
"""How far apart along x marks stand at least: so many fit side by side on a telephone."""
_LONGEST = 4000


def cut(text: object, longest: int = 200) -> str:
    """Return a value as text, cut short."""
    words = str(text)
    return words if len(words) <= longest else words[: longest - 1] + "…"


def safe(text: object) -> str:
    """Return a text without control characters; markup that was made here stays as it is."""
    return text if isinstance(text, Markup) else harmless(cut(text, _LONGEST))


def draw(chart: Chart) -> Markup:
    """Return a chart as an SVG element."""
    return _line_chart(chart) if isinstance(chart, LineChart) else _row_chart(chart)


def sample(look: Look) -> Markup:
    """Return a short line with a look, for a key."""
    line = _tag("line", x1=0, x2=28, y1=5, y2=5, class_="line", style=_stroke(look))
    return _tag("svg", line, width=28, height=10, aria_hidden="true")


def swatch(level: int) -> Markup:
    """Return a small box in a depth of the heat map, for a key."""
    box = _tag("rect", width=14, height=12, style=_depth(level))
    return _tag("svg", box, width=14, height=12, aria_hidden="true")


def dot_sample(is_full: bool) -> Markup:
    """Return a dot of one kind, for a key."""
    dot = _dot(12, 6, is_full)
    span = _tag("line", x1=0, x2=24, y1=6, y2=6, class_="line", style=_stroke(Look("ink")))
    return _tag("svg", span if is_full else "", dot, width=24, height=12, aria_hidden="true")


def _tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element; ``class_`` is written class, ``text_anchor`` text-anchor."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
    )
    inside = "".join(escape(safe(part)) for part in content)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    return f"{_plain(100 * share)}%"


def _stroke(look: Look) -> str:
    dashes = f";stroke-dasharray:{look.dashes}" if look.dashes else ""
    return f"stroke:var(--{look.colour});stroke-width:{_plain(look.width)}{dashes}"


def _depth(level: int) -> str:
    colour, opacity = heat(level)
    return f"fill:var(--{colour});fill-opacity:{_plain(opacity)}"


def _text(content: str, x: str | float, y: float, class_: str, colour: str = "soft") -> Markup:
    fill = {} if colour == "soft" else {"style": f"fill:var(--{colour})"}
    return _tag("text", cut(content, 80), x=x, y=y, class_=class_, **fill)


def _hinted(words: str, *parts: str) -> Markup:
    return _tag("g", _tag("title", words), *parts)


def _picture(chart: Chart, parts: Iterator[Markup], height: float, class_: str) -> Markup:
    label = safe(cut(chart.label, 1000))
    return _tag(
        "svg", *parts, class_=class_, role="img", aria_label=label, width="100%", height=height
    )


def _stretched(content: Sequence[str], height: float, *, y: float = 0.0, clip: bool) -> Markup:
    return _tag(
        "svg",
        *content,
        y=y,
        width="100%",
        height=height,
        viewBox=f"0 0 {_WIDTH} {_plain(height)}",
        preserveAspectRatio="none",
        overflow="hidden" if clip else "visible",
    )


def _across(y: float, class_: str) -> Markup:
    return _tag("line", x1="0", x2="100%", y1=y, y2=y, class_=class_)


def _down(place: str, y1: float, y2: float, class_: str) -> Markup:
    return _tag("line", x1=place, x2=place, y1=y1, y2=y2, class_=class_)


def _x_axis(x: Scale, bottom: float) -> Iterator[Markup]:
    for value in x.ticks(5):
        place = _percent(x.at(value))
        yield _down(place, bottom, bottom + 4, "axis")
        yield _text(short_step(value), place, bottom + 17, "mid")
    yield _across(bottom, "axis")


def _line_chart(chart: LineChart) -> Markup:
    lanes = len(chart.lanes())
    top = _LANE * lanes + (6 if lanes else 0)
    return _picture(chart, _line_parts(chart, top), top + chart.height, "plot")


def _line_parts(chart: LineChart, top: float) -> Iterator[Markup]:
    x, y, height = chart.x, chart.y, chart.height
    for value in y.ticks(4):
        at = top + height * (1 - y.at(value))
        yield _across(at, "grid")
        yield _text(figure(value), -8, at + 4, "end")
    yield from _x_axis(x, top + height)
    for number, (name, marks) in enumerate(chart.lanes().items()):
        lane, colour = _LANE * number, mark_colour(marks[0].letter)
        yield _text(cut(name, 11), -8, lane + 12, "end")
        yield _across(lane + 8, "grid")
        for share, letter, words in gathered(marks, x, _APART):
            place = _percent(share)
            down = {"y1": lane + 14.0, "y2": top + height}
            style = f"stroke:var(--{colour})"
            yield _tag("line", x1=place, x2=place, **down, class_="drop", style=style)
            yield _hinted(words, _text(letter, place, lane + 12, "mark mid", colour))
    yield _stretched(list(_paths(chart)), height, y=top, clip=chart.cut)
    if y.low < 0.0 < y.high:
        yield _across(top + height * (1 - y.at(0.0)), "zero")


def _paths(chart: LineChart) -> Iterator[Markup]:
    for line in chart.lines:
        fill = f"fill:var(--{line.look.colour})"
        if line.band:
            there, back = (_along(chart, points) for points in (line.band[1], line.band[0][::-1]))
            yield _tag("path", d=f"{there}L{back[1:]}Z", class_="band", style=fill)
    for line in chart.lines:
        if line.behind:
            style = _stroke(Look(line.look.colour, width=1))
            yield _tag("path", d=_along(chart, line.behind), class_="line pale", style=style)
    for line in chart.lines:
        if line.points:
            commands = _along(chart, line.points, steps=line.steps)
            title = _tag("title", line.name)
            yield _tag("path", title, d=commands, class_="line", style=_stroke(line.look))


def _along(chart: LineChart, points: Sequence[Point], *, steps: bool = False) -> str:
    """Return the commands of a line through points, straight or in steps."""
    commands = []
    for i, (at, value) in enumerate(points):
        x = _plain(_WIDTH * chart.x.at(at))
        y = _plain(chart.height * (1 - chart.y.free(value)))
        commands.append(f"M{x} {y}" if i == 0 else f"H{x}V{y}" if steps else f"L{x} {y}")
    if len(points) == 1:
        commands.append("h0.01")
    return "".join(commands)


def _row_chart(chart: RowChart) -> Markup:
    longest = max((len(row.name) for row in chart.rows), default=0)
    class_ = "plot" if longest <= 8 else "plot rows" if longest <= 12 else "plot rows wide"
    return _picture(chart, _row_parts(chart), chart.height, class_)


def _row_parts(chart: RowChart) -> Iterator[Markup]:
    x, height, each = chart.x, chart.height, chart.row_height
    if chart.margin is None:
        yield from _x_axis(x, height)
    else:
        yield from _ground(chart, chart.margin)
    yield _stretched(list(_cells(chart)), height, clip=False)
    for number, row in enumerate(chart.rows):
        if row.words:
            box = _tag("rect", width="100%", height=each, y=each * number, class_="hover")
            yield _hinted(row.words, box)
        yield _text(row.name, -8, each * (number + 0.5) + 4, "end")
    for segment in chart.segments:
        yield _segment(segment, x, each)
    for dot in chart.dots:
        yield _dot(_percent(x.at(dot.x)), each * dot.row, dot.is_full, dot.words)
    for letter in chart.letters:
        class_ = f"mark {'before' if letter.is_before else 'after'}"
        place, y = _percent(x.at(letter.x)), each * letter.row + 4
        yield _text(letter.text, place, y, class_, letter.colour)


def _ground(chart: RowChart, margin: float) -> Iterator[Markup]:
    """Yield what lies under dots: the margin, round values, the line at 0."""
    x, height = chart.x, chart.height
    left, right = x.at(-margin), x.at(margin)
    width = _percent(right - left)
    yield _tag("rect", x=_percent(left), width=width, y=0, height=height, class_="margin")
    for value in x.ticks(5):
        place = _percent(x.at(value))
        yield _down(place, 0, height + 4, "grid")
        yield _text(figure(value), place, height + 17, "mid")
    yield _across(height, "axis")
    yield _down(_percent(x.at(0.0)), 0, height, "zero")


def _cells(chart: RowChart) -> Iterator[Markup]:
    # One path a depth of colour: a map of thousands of cells stays small.
    commands: dict[int, list[str]] = defaultdict(list)
    for cell in chart.cells:
        left, right = (_WIDTH * chart.x.at(step) for step in (cell.since, cell.until))
        width, top = max(right - left, 0.5), chart.row_height * cell.row + 1
        commands[cell.level].append(
            f"M{left:.1f} {top:.0f}h{width:.1f}v{chart.row_height - 2:.0f}h-{width:.1f}z"
        )
    for level in sorted(commands):
        yield _tag("path", d="".join(commands[level]), class_="cell", style=_depth(level))


def _segment(segment: Segment, x: Scale, row_height: float) -> Markup:
    (x1, row1), (x2, row2) = segment.start, segment.end
    ends = {"x1": _percent(x.at(x1)), "x2": _percent(x.at(x2))}
    title = [_tag("title", segment.words)] if segment.words else []
    rows = {"y1": row_height * row1, "y2": row_height * row2}
    return _tag("line", *title, **ends, **rows, class_="line", style=_stroke(segment.look))


def _dot(x: str | float, y: float, is_full: bool, words: str = "") -> Markup:
    title = [_tag("title", words)] if words else []
    size, class_ = (4.5, "mean") if is_full else (3.5, "dot")
    return _tag("circle", *title, cx=x, cy=y, r=size, class_=class_)
