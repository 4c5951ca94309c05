"""The parts of the report: headline, losses, population, layers, lineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chronorun.analysis.reading.fields import figure, integer, mapping, number, shown, string
from chronorun.analysis.reading.series import Point
from chronorun.analysis.report.charts import (
    Line,
    Mark,
    edit_marks,
    heat_map,
    line_chart,
    lineage,
)
from chronorun.analysis.report.edits import UNFINISHED, Edit
from chronorun.analysis.report.gather import MOST_LAYERS, LayerData, RunData
from chronorun.analysis.report.svg import Scale, tag
from chronorun.lifecycle.record.telling import LETTERS, natural

MOST_ROWS = 48
"""Experts with a row of their own in a picture."""
MOST_WORDS = 200
"""Experts whose story is told in words."""


def headline(data: RunData) -> str:
    """Return title, one sentence, and the figures that matter."""
    status = string(data.summary, "status") or "no summary"
    bad = " bad" if status in ("failed", "interrupted", "no summary") else ""
    return (
        f"<h1>Run {shown(data.run_id)} "
        f'<span class="badge{bad}">{shown(status)}</span></h1>'
        f"<p>{_what_happened(data)}</p>{_what_ran(data)}{_tiles(data)}"
    )


def _what_happened(data: RunData) -> str:
    would = sum(n for a, n in data.counts.items() if a.startswith("would "))
    waiting = sum(n for a, n in data.counts.items() if a.endswith(UNFINISHED))
    left = f" {waiting} decided and not carried out: the run ended." if waiting else ""
    done = [(a, n) for a, n in data.counts.items() if _is_done(a) and n]
    if not done:
        if would:
            return f"A dry run: the lifecycle would have made {would} edits, and made none."
        return f"No lifecycle action changed the population.{left}"
    words = [f"{n} {a.lower()}{'s' if n > 1 else ''}" for a, n in done]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    judged = [data.judgements[e.seq] for e in data.edits if e.seq in data.judgements]
    sentence = f"Lifecycle actions: {shown(listed)}.{left}"
    if judged:
        harmful = sum(judgement.harmful for judgement in judged)
        helped = sum((judgement.realised or 0.0) < 0 for judgement in judged)
        sentence += (
            f" Of {len(judged)} judged by the probe, {helped} lowered its loss; "
            f"{harmful or 'none'} did harm beyond the tolerance."
        )
    return sentence


def _is_done(kind: str) -> bool:
    return not (kind.startswith("would ") or kind.endswith(UNFINISHED))


def _what_ran(data: RunData) -> str:
    shape, training = mapping(data.manifest, "architecture"), mapping(data.manifest, "training")
    parts = [
        (string(data.manifest, "model_name"), ""),
        (string(data.manifest, "dataset"), "data "),
        (integer(shape, "d_model"), "width "),
        (integer(shape, "n_layers"), "MoE layers "),
        (integer(shape, "top_k"), "top-k "),
        (integer(training, "batch_size"), "batch "),
        (integer(data.manifest, "seed"), "seed "),
        (string(data.manifest, "device"), "on "),
        ((string(data.manifest, "git_commit") or "")[:10] or None, "commit "),
    ]
    words = " · ".join(f"{name}{shown(value)}" for value, name in parts if value is not None)
    return f'<p class="soft">{words}</p>' if words else ""


def _tiles(data: RunData) -> str:
    s = data.summary
    val = number(s, "val_loss")
    bigram = number(s, "bigram_loss")
    against = ""
    if val is not None and bigram is not None:
        against = f"bigram baseline {figure(bigram, '.4f')}"
    elif val is None and (seen := data.val_loss.points()):
        val, against = seen[-1][1], "at the last checkpoint"
    train = number(s, "train_loss")
    if train is None and (seen := data.train_loss.points()):
        train = seen[-1][1]
    steps = integer(s, "steps")
    tiles = [
        ("validation loss", figure(val, ".4f"), against or "nats per token"),
        ("training loss", figure(train, ".4f"), "nats per token"),
        ("steps", figure(steps if steps is not None else data.last_step, ",.0f"), _tokens(data)),
        ("experts", *_experts(data)),
        ("actions", str(_count(data)), _count_words(data)),
    ]
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{name}</dt><dd>{shown(value)}<small>{shown(below)}</small></dd></div>"
            for name, value, below in tiles
        )
        + "</dl>"
    )


def _tokens(data: RunData) -> str:
    tokens = number(data.summary, "tokens")
    speed = number(data.summary, "tokens_per_second")
    words = [] if tokens is None else [f"{figure(tokens, ',.0f')} tokens"]
    return ", ".join(words if speed is None else [*words, f"{figure(speed, ',.0f')}/s"])


def _experts(data: RunData) -> tuple[str, str]:
    ends = {i: _ends(layer.population()) for i, layer in data.layers.items()}
    known = {i: end for i, end in ends.items() if end is not None}
    if not known:
        return "–", ""
    first = sum(end[0] for end in known.values())
    last = sum(end[1] for end in known.values())
    words = [f"L{i} {_arrow(*end)}" for i, end in known.items() if end[0] != end[1]][:6]
    return _arrow(first, last), ", ".join(words) or "as many as at the start"


def _ends(points: list[Point]) -> tuple[int, int] | None:
    return (int(points[0][1]), int(points[-1][1])) if points else None


def _arrow(first: int, last: int) -> str:
    return str(last) if first == last else f"{first} → {last}"


def _count(data: RunData) -> int:
    """Return how many actions were carried out or, in a dry run, would have been."""
    return sum(n for kind, n in data.counts.items() if not kind.endswith(UNFINISHED))


def _count_words(data: RunData) -> str:
    return ", ".join(f"{n} {a.lower()}" for a, n in data.counts.items() if n)


def steps_of(data: RunData) -> Scale:
    """Return the steps that all pictures share."""
    return Scale(data.first_step, data.last_step)


def losses(data: RunData) -> str:
    """Return the losses over steps, with a mark for each action."""
    lines = [
        Line.of("training", data.train_loss, "s0 thin"),
        Line.of("validation", data.val_loss, "s1"),
    ]
    values = [value for line in lines for value in line.values]
    if not values:
        return ""
    y, cut = _loss_scale(values)
    marks = [Mark("scenario", "!", at, f"step {at}: {words}") for at, words in data.scenario]
    marks += edit_marks(data.edits)
    note = f" Values above {figure(y.high)} are cut off." if cut else ""
    if any(line.behind for line in lines):
        note += " Pale: the lowest and highest values of each stretch; the line is the mean."
    what = f"Losses over steps, with {len(data.edits)} actions marked"
    drawn = line_chart(lines, steps_of(data), y, 230, what, marks, cut=cut)
    words = f"Nats per token over steps.{note}"
    return _section("Losses", words, _figure(lines, drawn, _letters(marks)))


def _loss_scale(values: list[float]) -> tuple[Scale, bool]:
    """Return a scale that the first steps, with their high losses, do not press flat."""
    low, high = min(values), max(values)
    usual = sorted(values)[int(0.9 * (len(values) - 1))]
    top = min(high, low + 3 * (usual - low)) if usual > low else high
    margin = 0.04 * (top - low) or 0.5
    return Scale(low - margin, top + margin), top < high


def _letters(marks: Iterable[Mark]) -> str:
    lanes = dict.fromkeys((mark.letter, mark.lane) for mark in marks)
    if not lanes:
        return ""
    words = ", ".join(f"{shown(letter)} {shown(lane)}" for letter, lane in lanes)
    return f"Marks: {words}; a number counts actions that lie close together."


def _figure(lines: Iterable[Line], drawn: str, caption: str = "") -> str:
    keys = "".join(
        f'<span class="key">{_sample(line.class_)}{shown(line.name)}</span>'
        for line in lines
        if line.points
    )
    return f"<figure><figcaption>{keys}{caption}</figcaption>{drawn}</figure>"


def _sample(class_: str) -> str:
    line = tag("line", x1=0, x2=28, y1=5, y2=5, class_=f"line {class_}")
    return f'<svg width="28" height="10" aria-hidden="true">{line}</svg>'


def _section(title: str, words: str, content: str, card: bool = True) -> str:
    body = f'<div class="card">{content}</div>' if card else content
    return f'<section><h2>{title}</h2><p class="soft">{words}</p>{body}</section>'


def population(data: RunData) -> str:
    """Return the number of experts over time, each layer and all together."""
    drawn = {i: points for i, layer in data.layers.items() if (points := layer.population())}
    if not drawn:
        return ""
    lines = [
        Line(f"layer {i}", points, f"s{n % 4}", steps=True)
        for n, (i, points) in enumerate(drawn.items())
    ]
    most = max(value for points in drawn.values() for _, value in points)
    y = Scale(0.0, most * 1.08 or 1.0)
    chart = line_chart(lines, steps_of(data), y, 150, "Live experts of each layer over steps")
    return _section("Population", "Live experts of each layer.", _figure(lines, chart))


def layers(data: RunData) -> str:
    """Return shares and control signals, layer by layer."""
    drawn = [layer for layer in data.layers.values() if layer.shares.columns or layer.debt.points()]
    if not drawn:
        return ""
    words = (
        "Left: the share of the layer's tokens that each expert got between two checkpoints, "
        f"deeper for more. {_depth_key()} Letters stand where an expert came or went. "
        "Right: how far routing is from healthy (topology debt), its running mean (pressure), "
        "and how strongly the lens steers (lens scale)."
    )
    if data.layers_seen > len(data.layers):
        words += (
            f" {data.layers_seen} layers were logged; {MOST_LAYERS} are drawn, those with the "
            f"most actions first."
        )
    return _section("Layers", words, "".join(_layer(data, layer) for layer in drawn), card=False)


def _depth_key() -> str:
    boxes = "".join(
        f'<span class="key"><svg width="14" height="12" aria-hidden="true">'
        f'<rect class="cell h{level}" width="14" height="12"/></svg>{name}</span>'
        for level, name in ((0, "none"), (2, "1%"), (4, "10%"), (8, "50%"), (10, "all"))
    )
    return boxes


def _layer(data: RunData, layer: LayerData) -> str:
    rows = layer.rows(MOST_ROWS)
    ends = _ends(layer.population())
    title = f"Layer {layer.layer_id}" + (f": {_arrow(*ends)} experts" if ends else "")
    steps = steps_of(data)
    shares = ""
    if layer.shares.columns:
        left = len(layer.experts | set(layer.lives)) - len(rows)
        caption = f"share of tokens{f'; {left} experts without a row' if left > 0 else ''}"
        what = f"Shares of {len(rows)} experts of layer {layer.layer_id} over steps"
        shares = f"<figure><figcaption>{caption}</figcaption>{heat_map(layer, rows, steps, what)}"
        shares += "</figure>"
    lines = [
        Line.of("debt", layer.debt, "s1"),
        Line.of("pressure", layer.pressure, "s0"),
        Line.of("lens scale", layer.lens_scale, "s2"),
    ]
    control = ""
    if any(line.points for line in lines):
        values = [value for line in lines for value in line.values]
        y = Scale(min(0.0, *values), max(1.0, *values))
        what = f"Topology debt, pressure and lens scale of layer {layer.layer_id} over steps"
        control = _figure(lines, line_chart(lines, steps, y, 180, what))
    return f'<div class="card"><h3>{title}</h3><div class="pair">{shares}{control}</div></div>'


def family(data: RunData) -> str:
    """Return who came from whom and who went into whom, in pictures and in words."""
    cards = [_family(data, layer) for layer in data.layers.values() if layer.storied()]
    if not cards:
        return ""
    words = (
        "A line is a life. A child hangs on its parent's line where it was born; a merged expert "
        "ends on the line of the one that it went into (dashed)."
    )
    told = list(_told(data.edits))
    items = "".join(f"<li>{line}</li>" for line in told[:MOST_WORDS])
    more = f"<li>{len(told) - MOST_WORDS} more</li>" if len(told) > MOST_WORDS else ""
    text = f"<details><summary>The same in words</summary><ul>{items}{more}</ul></details>"
    return _section("Lineage", words, "".join(cards) + text, card=False)


def _family(data: RunData, layer: LayerData) -> str:
    rows = layer.family(MOST_ROWS)
    left = len(layer.storied()) - len(rows)
    note = f" <small>({left} more not drawn)</small>" if left > 0 else ""
    what = f"Lifelines of {len(rows)} experts of layer {layer.layer_id} over steps"
    drawn = lineage(layer, rows, steps_of(data), what)
    return f'<div class="card"><h3>Layer {layer.layer_id}{note}</h3><figure>{drawn}</figure></div>'


def _told(edits: Iterable[Edit]) -> Iterator[str]:
    stories: dict[str, list[str]] = {}
    for edit in edits:
        source = edit.parent_id if edit.parent_id not in (None, edit.expert_id) else None
        for name in edit.born:
            origin = f" from {source}" if source else ""
            how = {"SPAWN": "spawned", "SPLIT": "split off", "REVIVE": "revived"}
            words = how.get(edit.action, "brought back")
            stories.setdefault(name, []).append(f"{words}{origin} at step {edit.at}")
        for name in edit.died:
            into = f"merged into {edit.expert_id}" if edit.action == "MERGE" else ""
            words = into or {"PRUNE": "pruned"}.get(edit.action, "taken back")
            stories.setdefault(name, []).append(f"{words} at step {edit.at}")
    for name in sorted(stories, key=natural):
        yield shown(f"{name}: {', '.join(stories[name])}", 300)


def letter_badge(edit: Edit) -> str:
    """Return an action's letter and name."""
    letter = edit.letter
    kind = letter if letter in LETTERS.values() else "X"
    would = "would " if edit.dry_run else ""
    return f'<b class="m m{kind}">{letter}</b>{would}{shown(edit.action, 20)}'
