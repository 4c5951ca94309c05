"""The words of a run's report: what happened, its figures, the parts of each layer."""

from __future__ import annotations

from collections.abc import Sequence

from chronorun.analysis.reading.fields import figure, integer, mapping, number, string
from chronorun.analysis.report.charts import LineChart, RowChart
from chronorun.analysis.report.edits import UNFINISHED, Edit
from chronorun.analysis.report.gather import LayerData, RunData
from chronorun.analysis.report.pictures import control, lineage, shares
from chronorun.analysis.report.svg import cut
from chronorun.lifecycle.record.telling import natural

MOST_STORIES = 200
"""Experts whose story is written out."""
_BORN = {"SPAWN": "spawned", "SPLIT": "split off", "REVIVE": "revived"}


def status(data: RunData) -> str:
    """Return how the run ended."""
    return string(data.summary, "status") or "no summary"


def what_happened(data: RunData) -> str:
    """Return in a sentence or two what the lifecycle did."""
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
    sentence = f"Lifecycle actions: {cut(listed)}.{left}"
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


def what_ran(data: RunData) -> str:
    """Return model, data, sizes and device."""
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
    return " · ".join(f"{name}{value}" for value, name in parts if value is not None)


def tiles(data: RunData) -> list[tuple[str, str, str]]:
    """Return the figures that matter: name, value, and a note below."""
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
    # Carried out or, in a dry run, what would have been.
    actions = sum(n for kind, n in data.counts.items() if not kind.endswith(UNFINISHED))
    listed = ", ".join(f"{n} {kind.lower()}" for kind, n in data.counts.items() if n)
    return [
        ("validation loss", figure(val, ".4f"), against or "nats per token"),
        ("training loss", figure(train, ".4f"), "nats per token"),
        ("steps", figure(data.last_step if steps is None else steps, ",.0f"), _tokens(data)),
        ("experts", *_experts(data)),
        ("actions", str(actions), cut(listed)),
    ]


def _tokens(data: RunData) -> str:
    tokens = number(data.summary, "tokens")
    speed = number(data.summary, "tokens_per_second")
    words = [] if tokens is None else [f"{figure(tokens, ',.0f')} tokens"]
    return ", ".join(words if speed is None else [*words, f"{figure(speed, ',.0f')}/s"])


def _experts(data: RunData) -> tuple[str, str]:
    known = {i: end for i, layer in data.layers.items() if (end := _ends(layer)) is not None}
    if not known:
        return "–", ""
    first = sum(end[0] for end in known.values())
    last = sum(end[1] for end in known.values())
    words = [f"L{i} {_arrow(*end)}" for i, end in known.items() if end[0] != end[1]][:6]
    return _arrow(first, last), ", ".join(words) or "as many as at the start"


def _ends(layer: LayerData) -> tuple[int, int] | None:
    points = layer.population()
    return (int(points[0][1]), int(points[-1][1])) if points else None


def _arrow(first: int, last: int) -> str:
    return str(last) if first == last else f"{first} → {last}"


def layers(data: RunData) -> list[tuple[str, RowChart | None, LineChart | None]]:
    """Return title, shares and control signals of each layer."""
    found = []
    for layer in data.layers.values():
        if layer.shares.columns or layer.debt.points():
            ends = _ends(layer)
            title = f"Layer {layer.layer_id}" + (f": {_arrow(*ends)} experts" if ends else "")
            found.append((title, shares(data, layer), control(data, layer)))
    return found


def families(data: RunData) -> list[tuple[int, RowChart]]:
    """Return the lifelines of each layer in which experts came or went."""
    drawn = [layer for layer in data.layers.values() if layer.storied()]
    return [(layer.layer_id, lineage(data, layer)) for layer in drawn]


def stories(edits: Sequence[Edit]) -> list[str]:
    """Return for each expert that came or went how it did."""
    found: dict[str, list[str]] = {}
    for edit in edits:
        source = edit.parent_id if edit.parent_id not in (None, edit.expert_id) else None
        for name in edit.born:
            origin = f" from {source}" if source else ""
            words = _BORN.get(edit.action, "brought back")
            found.setdefault(name, []).append(f"{words}{origin} at step {edit.at}")
        for name in edit.died:
            into = f"merged into {edit.expert_id}" if edit.action == "MERGE" else ""
            words = into or {"PRUNE": "pruned"}.get(edit.action, "taken back")
            found.setdefault(name, []).append(f"{words} at step {edit.at}")
    names = sorted(found, key=natural)
    return [cut(f"{name}: {', '.join(found[name])}", 300) for name in names]
