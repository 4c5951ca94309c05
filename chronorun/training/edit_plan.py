"""Which plan a run's configuration asks for, if any (group ``edits``)."""

from __future__ import annotations

import math
from pathlib import Path

from chronorun.config.edits import EditsKind
from chronorun.config.run import RunConfig
from chronorun.core.jsonl import read_jsonl
from chronorun.core.run_files import log_file
from chronorun.errors import UserError
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.decide.cycle import advance
from chronorun.lifecycle.decide.plans import Decide, PlannedEdit, double, follow


def decider(config: RunConfig) -> Decide:
    """Return what decides the edits of a run. Raises UserError for a source that is no run's."""
    edits = config.edits
    if edits.kind is EditsKind.policy:
        return advance
    if edits.kind is EditsKind.doubling:
        return double(math.ceil(edits.doubling_at * config.training.max_steps))
    if not edits.source:
        raise UserError(
            f"configuration: edits.source=null, expected a run folder while edits.kind="
            f"{edits.kind.name}; add edits.source=outputs/NAME"
        )
    plan = planned_edits(Path(edits.source))
    return follow(plan, config.seed, sham=edits.kind is EditsKind.sham)


def planned_edits(run_dir: Path) -> list[PlannedEdit]:
    """Return the edits of a run, in the order in which they were decided.

    Raises UserError where the folder has no log of them.
    """
    log = run_dir / log_file("lifecycle_decisions")
    if not log.is_file():
        raise UserError(
            f"configuration: edits.source={run_dir}, expected the folder of a run with "
            f"lifecycle_decisions.jsonl; name one such as outputs/run"
        )
    found = [
        PlannedEdit(int(line["step"]), Action(line["action"]), int(line["seq"]))
        for line in read_jsonl(log)
        if not line["dry_run"]
    ]
    return sorted(found, key=lambda edit: edit.seq)
