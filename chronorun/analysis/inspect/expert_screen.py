"""One expert's story on a terminal: the answers first, then the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chronorun.analysis.inspect.expert_answers import answers, split_limits
from chronorun.analysis.inspect.expert_story import Held, Spell, Story
from chronorun.analysis.inspect.sparkline import spark
from chronorun.analysis.inspect.timeline import probe_words, receipt, what, who, why
from chronorun.analysis.reading.fields import scalars
from chronorun.analysis.reading.records import Decision, Judgement, Transition
from chronorun.core.words import shown

Judge = Callable[[Decision], Judgement | None]


def render_story(
    story: Story, judged: Judge, width: int, ascii_only: bool
) -> Iterator[RenderableType]:
    """Yield answers, states, signals against thresholds, actions and proposals."""
    name = shown(story.expert_id, 60)
    yield Text("")
    yield Text(f"why {name}", style="bold")
    for _, happened, text in answers(story):
        # The lines of an answer stand together.
        yield Padding(Text(f"{name} {text}", style="bold" if happened else ""), (0, 0, 0, 2))
    yield from _life(story)
    if story.checkpoints:
        yield from _signals(story, width, ascii_only)
    yield from _actions(story, judged)
    yield from _proposals(story)


def _title(text: str) -> Iterator[RenderableType]:
    yield Text("")
    yield Text(text, style="bold")


def _life(story: Story) -> Iterator[RenderableType]:
    born = "unknown" if story.born_step is None else f"step {story.born_step}"
    origin = f" from {shown(story.parent_id, 40)}" if story.parent_id else ""
    state = "unknown" if story.state is None else shown(story.state, 40)
    yield from _title("states")
    yield Text(f"  born {born}{origin}; now {state}")
    table = _table("step", "from", "to", "because")
    # Twins are released before states change at the same checkpoint.
    lines = [*story.releases, *story.states, *story.last_states]
    for t in sorted(lines, key=lambda t: t.step):
        table.add_row(*(Text(cell) for cell in _change(t, story.expert_id)))
    if lines:
        yield table
    left_out = story.changes - len(story.states) - len(story.last_states)
    if left_out > 0:
        yield Text(f"  ... {left_out} more changes between the first and the last of these")


def _change(t: Transition, expert_id: str) -> tuple[str, ...]:
    if t.is_release:
        other = t.parent_id if t.expert_id == expert_id else t.expert_id
        felt = ", ".join(probe_words(scalars(t.receipt))) or "not measured"
        return f"{t.step}", "", "", f"twins released, to compete with {_name(other)}: {felt}"
    before = "-" if t.before is None else shown(t.before, 40)
    return f"{t.step}", before, shown(t.after, 40), shown(t.reason, 200)


def _name(expert_id: str | None) -> str:
    return shown(expert_id or "", 40) or "?"


def _signals(story: Story, width: int, ascii_only: bool) -> Iterator[RenderableType]:
    s = story.share
    yield from _title(f"signals at {story.checkpoints} checkpoints, against their thresholds")
    columns = s.columns(max(8, min(60, width - 46)), s.points()[0][0], story.last_step or 0)
    even = "" if story.even_share is None else f", even share {story.even_share:.4f}"
    yield Text(f"  share {spark(columns, ascii_only)} {s.first:.4f} -> {s.last:.4f}{even}")
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for heading in ("for a", "condition", "longest", "now", "patience"):
        right = heading in ("longest", "now", "patience")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in _rows(story):
        table.add_row(*(Text(cell) for cell in row))
    yield table
    if story.nearest is not None:
        n = story.nearest
        yield Text(
            f"  nearest to it: {shown(n.partner_id, 40)} at step {n.step}, cosine {n.cosine:.3f}, "
            f"overlap {n.overlap:.3f}"
        )
    if story.lens_deferrals:
        grace = story.config.get("prune_lens_grace", "?")
        often = "once" if story.lens_deferrals == 1 else f"{story.lens_deferrals} times"
        yield Text(f"  an attempt of the lens put off its prune {often} (grace {grace} a dormancy)")


def _rows(story: Story) -> Iterator[tuple[str, ...]]:
    limits = split_limits(story.config, story.even_share)
    config = story.config
    cosine, overlap = (
        config.get(f"merge_{name}_threshold", "?") for name in ("similarity", "overlap")
    )
    gain = story.leave_one_out_gain
    best = "" if gain is None else f" (best left out {gain:+.4f} nats)"
    for action, condition, held in (
        ("prune", "dormant: share 0", story.dormancy),
        ("split", f"share above {limits or '?'}", story.overload),
        ("merge", f"cosine above {cosine} and overlap above {overlap}", story.convergence),
        ("suspect", f"it looks broken{best}", story.suspicion),
        ("spawn", "its layer starves (a matter of the layer)", story.starvation),
    ):
        yield action, condition, _longest(held), f"{held.now}", _patience(held)


def _longest(held: Held) -> str:
    return f"{held.longest}" if not held.longest else f"{held.longest} (step {held.longest_step})"


def _patience(held: Held) -> str:
    if held.patience is None:
        return "?"
    return f"{held.patience}{', reached' if held.reached else ''}"


def _actions(story: Story, judged: Judge) -> Iterator[RenderableType]:
    if not story.decisions:
        return
    yield from _title("actions")
    table = _table("step", "action", "expert", "why, and what it did")
    for d in story.decisions:
        told = "\n".join(filter(None, [why(d), receipt(d, judged(d))]))
        step = "-" if d.step is None else f"{d.step}"
        table.add_row(Text(step), Text(what(d)), Text(who(d)), Text(told))
    yield table


def _proposals(story: Story) -> Iterator[RenderableType]:
    if not story.evaluated:
        return
    yield from _title("proposals, and what became of them")
    if not story.spells:
        yield Text("  none: no condition lasted for its patience")
        return
    table = _table("steps", "cycles", "proposal", "verdict")
    for spell in story.spells:
        table.add_row(*(Text(cell) for cell in _spell(spell)))
    yield table
    if story.spells_left_out:
        yield Text(f"  ... {story.spells_left_out} more")


def _spell(spell: Spell) -> tuple[str, ...]:
    steps = f"{spell.first_step}"
    if spell.last_step != spell.first_step:
        steps += f" to {spell.last_step}"
    proposal = shown(spell.action, 20) + (f" {spell.role}" if spell.role else "")
    told = shown(spell.why, 200)
    verdict = shown(spell.status, 40) + (f": {told}" if told else "")
    return steps, f"{spell.cycles}", proposal, verdict


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    return table
