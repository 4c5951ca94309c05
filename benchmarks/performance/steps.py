"""One training step against one-hot dispatch, and against the dense model of equal active FLOPs."""

from __future__ import annotations

from performance.models import BATCH, build, check_equal_flops, preset_config, step_of
from performance.rows import Row, ratio_row
from performance.timing import interleave

KINDS = ("ours", "dense", "one-hot")
GOALS = {  # preset -> baseline -> (must, aim)
    "small": {"one-hot": (1 / 4, 1 / 5.5), "dense": (1.15, 1.06)},
    "medium": {"one-hot": (1 / 1.6, 1 / 1.8), "dense": (1.10, 1.03)},
}


def measure(quick: bool) -> list[Row]:
    """Return step / one-hot and step / dense of the presets small and medium."""
    return [row for preset in GOALS for row in measure_preset(preset, 3 if quick else 11)]


def measure_preset(preset: str, rounds: int) -> list[Row]:
    """Return the rows of one preset."""
    config, batch = preset_config(preset), BATCH[preset]
    flops = check_equal_flops(config)
    steps = {kind: step_of(build(kind, config), config, batch) for kind in KINDS}
    seconds = interleave(steps, rounds)
    rows = []
    for baseline in ("one-hot", "dense"):
        must, aim = GOALS.get(preset, {}).get(baseline, (None, None))
        note = f"{flops:,} multiply-adds a token" if baseline == "dense" else "capacity factor 1.25"
        rows.append(
            ratio_row(
                "step",
                f"step / {baseline}, {preset}",
                seconds["ours"],
                seconds[baseline],
                must=must,
                aim=aim,
                note=note,
            )
        )
    return rows
