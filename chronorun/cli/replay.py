"""``chronorun replay``: derive decisions again, of a run or of all runs below a folder.

Of one run it may also be asked what other settings would have decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chronorun.analysis.inspect.output import to_json
from chronorun.analysis.inspect.sweep import run_folders
from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.derive import replay_run
from chronorun.analysis.replay.lines import Difference
from chronorun.analysis.replay.result import Replay, Tally
from chronorun.analysis.replay.sweep import SweepReplay, replay_sweep
from chronorun.analysis.replay.whatif import Change, WhatIf, what_if
from chronorun.core.run_files import has_logs
from chronorun.core.text import harmless
from chronorun.errors import UserError
from chronorun.lifecycle.record.telling import who

SCHEMA_VERSION = 1
LONGEST = 200
"""Characters of one side of a difference that are shown."""


def replay_command(run: str, overrides: Sequence[str], as_json: bool) -> int:
    """Print what a replay found and return the exit code: 0 if all was reproduced, else 1."""
    place = Path(run)
    if place.is_dir() and not has_logs(place):
        folders = list(run_folders(place))
        if folders:
            return _replay_all(place, folders, overrides, as_json)
    opened = Run.open(place)
    found = replay_run(opened)
    # What would have been is only told of a run that is what its logs say.
    other = what_if(opened, overrides) if overrides and found.is_reproduced else None
    if as_json:
        print(to_json(_record(run, found, other)))
    else:
        for line in [*_lines(run, found), *([] if other is None else _other_lines(other))]:
            print(harmless(line))
    return 0 if found.is_reproduced else 1


def _replay_all(
    place: Path, folders: Sequence[Path], overrides: Sequence[str], as_json: bool
) -> int:
    if overrides:
        raise UserError(
            f"replay: {overrides[0]} of the {len(folders)} runs in {place}, expected the folder of "
            f"one run with it; name one such as {folders[0]}"
        )
    sweep = replay_sweep(place, folders)
    if as_json:
        print(to_json(_sweep_record(sweep)))
    else:
        for line in _sweep_lines(sweep):
            print(harmless(line))
    return 0 if sweep.is_reproduced else 1


# ---- for people -----------------------------------------------------------------------------


def _lines(run: str, found: Replay) -> list[str]:
    lines = [
        f"{run}: {_count(found.checkpoints, 'checkpoint')} replayed",
        f"lifecycle: {_tally(found.lifecycle)}, with {_count(found.verdicts, 'verdict')}",
        f"control: {_tally(found.control)}",
    ]
    lines += [f"waiting when the run ended: {one}" for one in found.waiting]
    if found.is_open:
        lines.append("the run is still being written: its newest checkpoint was left for later")
    lines += [f"note: {note}" for note in found.notes]
    if found.difference is not None:
        lines += _difference(found.difference)
    lines += [f"{name} is not what summary.json says of it (sha256)" for name in found.changed_logs]
    return lines


def _sweep_lines(sweep: SweepReplay) -> list[str]:
    lines = []
    for one in sweep.runs:
        if one.replay is None:
            lines.append(f"{one.path}: not replayed: {one.why_not}")
        elif not one.replay.is_reproduced:
            lines += _lines(one.path, one.replay)
    return [*lines, sweep.words()]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _tally(tally: Tally) -> str:
    text = f"{tally.reproduced} of {tally.logged} reproduced"
    return text if tally.why_not is None else f"{text}: {tally.why_not}"


def _difference(d: Difference) -> list[str]:
    place = d.file if d.line == 0 else f"{d.file} line {d.line}"
    when = "" if d.step is None else f", step {d.step}"
    where = "" if d.layer_id is None else f", layer {d.layer_id}"
    return [
        f"first difference: {place}, {d.field}{when}{where}",
        f"  logged   {_shown(d.logged)}",
        f"  derived  {_shown(d.derived)}",
    ]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _other_lines(other: WhatIf) -> list[str]:
    lines = [f"with {name}={new} (was {old}):" for name, (old, new) in other.changed.items()]
    if not other.changed:
        return ["nothing changed: the run had these values"]
    lines += _exactness(other)
    changes = other.changes()
    lines += [_change(other, change) for change in changes]
    same = len(other.derived) - sum(change.would_be_step is not None for change in changes)
    kinds = [f"{sum(c.kind == kind for c in changes)} {kind}" for kind in KINDS]
    lines.append(f"lifecycle: {same} the same, {', '.join(kinds)}")
    if other.control_decisions:
        since = other.control_differs_from
        rest = "" if since is None else f", the first at step {since}"
        lines.append(
            f"control: {other.control_differs} of {other.control_decisions} with another lens "
            f"scale{rest}"
        )
    return lines


KINDS = ("earlier", "later", "more", "fewer")


def _exactness(other: WhatIf) -> list[str]:
    if other.exact_until is None:
        why = "a dry run changes nothing" if other.is_dry else "no edit would have been another"
        return [f"exact throughout: {why}"]
    return [f"exact until step {other.exact_until} ({other.why}), a projection after it"]


def _change(other: WhatIf, change: Change) -> str:
    if change.kind == "more":
        when = f"more: at step {change.would_be_step}"
    elif change.kind == "fewer":
        when = f"fewer: not at step {change.step}"
    else:
        when = f"{change.kind}: at step {change.would_be_step}, not {change.step}"
    made = change.made
    named = f"{made.action} {who(made.expert_id, made.parent_id, made.partner_id)}"
    return f"  {named} {when}{'' if other.is_exact(change) else ' (projected)'}"


# ---- for programs ---------------------------------------------------------------------------


def _record(run: str, found: Replay, other: WhatIf | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "run_id": found.run_id,
        "reproduced": found.is_reproduced,
        "checkpoints": found.checkpoints,
        "lifecycle": asdict(found.lifecycle) | {"verdicts": found.verdicts},
        "control": asdict(found.control),
        "waiting": found.waiting,
        "being_written": found.is_open,
        "difference": None if found.difference is None else asdict(found.difference),
        "changed_logs": found.changed_logs,
        "notes": found.notes,
        "what_if": None if other is None else _other_record(other),
    }


def _sweep_record(sweep: SweepReplay) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "path": sweep.path,
        "reproduced": sweep.is_reproduced,
        "decisions": {"logged": sweep.logged, "reproduced": sweep.reproduced},
        "planned": sweep.planned,
        "runs": [
            {"path": one.path, "why_not": one.why_not}
            if one.replay is None
            else _record(one.path, one.replay, None)
            for one in sweep.runs
        ],
    }


def _other_record(other: WhatIf) -> dict[str, Any]:
    return {
        "changed": {name: {"was": old, "is": new} for name, (old, new) in other.changed.items()},
        "exact_until": other.exact_until,
        "why": other.why,
        "logged": len(other.logged),
        "derived": len(other.derived),
        "changes": [
            {
                "kind": change.kind,
                "action": change.made.action,
                "layer_id": change.made.layer_id,
                "expert_id": change.made.expert_id,
                "parent_id": change.made.parent_id,
                "partner_id": change.made.partner_id,
                "step": change.step,
                "would_be_step": change.would_be_step,
                "exact": other.is_exact(change),
            }
            for change in other.changes()
        ],
        "control": {
            "decisions": other.control_decisions,
            "other_lens_scale": other.control_differs,
            "first_step": other.control_differs_from,
        },
    }
