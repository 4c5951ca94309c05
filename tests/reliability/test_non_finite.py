"""NaN or infinity in a loss, a gradient or a router logit stops before the update: exit 4."""

from __future__ import annotations

from pathlib import Path

import pytest
from warm.commands import Commands

from reliability import nano
from reliability.figures import Figures

STEP = 17


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("what", ["loss", "gradient", "router logit"])
def test_it_stops_before_the_update(
    what: str,
    value: float,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    uninterrupted: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and value == float("inf"):
        pytest.skip("needs --exhaustive")
    how = {"what": what, "value": value, "step": STEP, "path": "unchanged"}
    done = run_command(place, "train", *overrides, hooks=[("poison", how)])
    assert done.code == 4, done.told
    assert done.err.splitlines()[-1] == (
        f"chronorun: error: training: loss or gradient at step {STEP} is not finite, expected a "
        f"number; nothing was updated: lower optimizer.lr and resume from the last checkpoint"
    )
    assert (place / "unchanged").read_text(encoding="utf-8") == "True"
    assert "Traceback" not in done.told
    assert max((place / "outputs/x/checkpoints").iterdir()).name == "step_00000015"
    done = run_command(place, "train", *overrides, "resume=auto")
    assert done.code == 0, done.told
    held = nano.differences(uninterrupted, place / "outputs" / "x") == []
    assert count(f"{value} in a {what}: exit 4 before the update, resumed", held)
