"""Records of the routing (group ``telemetry``) and progress, W&B (group ``tracking``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from chronorun.config.fields import check_ranges, option


@dataclass
class TelemetryConfig:
    """Routing telemetry."""

    enabled: bool = option(True, "record routing and write a snapshot at each evaluation")
    write_events: bool = option(True, "write routing_events.jsonl (one line per step and layer)")
    token_types: int = option(
        256, "number of token-type buckets in a basin", at_least=2, limit=1_048_576
    )
    position_buckets: int = option(
        16, "number of position buckets in a basin", at_least=1, limit=1_048_576
    )

    def __post_init__(self) -> None:
        check_ranges(self, "telemetry")


class WandbMode(Enum):
    """W&B modes; ``auto`` leaves the mode to WANDB_MODE in the environment."""

    auto = "auto"
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = option(WandbMode.auto, "auto: WANDB_MODE if set, else offline")
    project: str | None = option(
        None, "project of the run (null: WANDB_PROJECT if set, else chronorun)"
    )
    group: str | None = option(None, "group of the run (null: WANDB_RUN_GROUP)")
    job_type: str | None = option(None, "job type of the run (null: WANDB_JOB_TYPE)")
    start_timeout_s: float = option(
        5.0, "maximum wait for W&B at the start", unit="s", above=0.0, limit=86_400.0
    )

    def __post_init__(self) -> None:
        check_ranges(self, "tracking.wandb")


@dataclass
class TrackingConfig:
    """Progress display and trackers."""

    progress: bool = option(True, "show progress on the screen")
    log_interval: int = option(
        10, "steps between rows of metrics.jsonl and progress updates", unit="steps", at_least=1
    )
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        check_ranges(self, "tracking")
