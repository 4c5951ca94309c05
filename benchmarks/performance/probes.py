"""The harm guard's probes, amortised over a run that acts: ``lifecycle=aggressive``."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from performance.rows import Row, without_goals
from performance.runs import BenchmarkRun, Timed

MUST, AIM = 0.02, 0.01


def measure(quick: bool) -> list[Row]:
    """Return probe seconds over all seconds of a run of nano and, in a full run, of tiny."""
    presets = {"nano": 100 if quick else 300} | ({} if quick else {"tiny": 500})
    rows = {preset: measure_run(preset, steps) for preset, steps in presets.items()}
    return [*without_goals([rows.pop("nano")]), *rows.values()]


def measure_run(preset: str, steps: int) -> Row:
    """Return the row of one run."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"model={preset}", "lifecycle=aggressive", f"training.max_steps={steps}"]
        if steps <= 200:
            # The warm-up of the preset would end with the run.
            overrides.append("lifecycle.lifecycle_warmup_steps=40")
        run = BenchmarkRun(overrides, Path(folder))
        take, beat = Timed(run.take), Timed(run.beat)
        for _ in range(steps):
            take()
            if run.step % run.config.training.eval_interval == 0:
                beat()
        lifecycle = run.heartbeat.lifecycle
        assert lifecycle is not None
        actions = Counter(decision.action for decision in lifecycle.decisions)
    # Edits at checkpoints and before steps call the probe, too: it is part of both.
    total = take.seconds + beat.seconds
    made = ", ".join(f"{n} {action}" for action, n in sorted(actions.items())) or "no edit"
    return Row(
        "probes",
        f"probes / run, {preset}, {steps} steps",
        "%",
        run.probe.seconds / total,
        must=MUST,
        aim=AIM,
        note=f"one run, {run.probe.calls} probes in {total:.0f} s: {made}",
        limit="each is a forward of the probe batch; their number follows how much a run acts",
    )
