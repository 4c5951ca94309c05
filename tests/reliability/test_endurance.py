"""A long run with hundreds of edits needs no more memory, files or optimizer state at its end."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

STEPS, EDITS = 20_000, 200
MOST_GROWTH = 0.05
# A rollback undoes the split before it; pruned and merged experts come back.
KINDS = ("SPLIT", "PRUNE", "SPAWN", "MERGE", "SPLIT", "ROLLBACK", "PRUNE", "REVIVE")


def plan() -> list[tuple[int, str]]:
    """More edits than asked for: some find nobody to hit, or an edit too old to be undone."""
    return list(zip(range(40, STEPS - 200, 50), cycle(KINDS), strict=False))


@pytest.mark.exhaustive
def test_twenty_thousand_steps_with_two_hundred_edits(
    run_command: Commands, overrides: tuple[str, ...], place: Path, count: Figures
) -> None:
    long = (
        *overrides,
        nano.write_plan(place / "plan", plan()),
        f"training.max_steps={STEPS}",
        "training.eval_interval=10",
        "training.checkpoint_interval=1000",
        "tracking.log_interval=100",
    )
    watch = ("watch_resources", {"every": 500, "path": str(place / "seen.jsonl")})
    done = run_command(place, "train", *long, hooks=[watch], limit_s=3000)
    assert done.code == 0, done.told
    seen = [json.loads(line) for line in (place / "seen.jsonl").open(encoding="utf-8")]
    assert len(seen) == STEPS // 500
    edits = nano.story(place / "outputs" / "x")["lifecycle"]
    assert sum(edits.values()) >= EDITS, edits
    assert all(edits.values()), edits
    held = all(sample["stray_entries"] == [] for sample in seen)
    assert count("optimizer entries are the live parameters", held, times=len(seen))
    # All logs are open, and all caches warm, after a tenth of the run.
    warm = seen[len(seen) // 10 :]
    assert count("open files flat", len({sample["files"] for sample in warm}) == 1), warm
    growth = warm[-1]["resident"] / warm[0]["resident"] - 1
    assert count(f"memory flat over {STEPS} steps, {EDITS} edits", growth < MOST_GROWTH), growth
