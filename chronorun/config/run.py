"""The root of a training run's configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from chronorun.config.data import DataConfig, TokenizerConfig
from chronorun.config.edits import EditsConfig
from chronorun.config.fields import LARGEST_SEED, check_ranges, option
from chronorun.config.governance import GovernanceConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.observing import TelemetryConfig, TrackingConfig
from chronorun.config.scenario import ScenarioConfig
from chronorun.config.training import OptimizerConfig, TrainingConfig
from chronorun.errors import UserError

# Names below output_dir that belong to no run: the link to the newest run, folders of sweeps.
RESERVED_RUN_IDS = ("run", "bench", "multirun")


@dataclass
class RunConfig:
    """Everything that defines one training run."""

    seed: int = option(
        0, "seed of weights, batches and all other draws", at_least=0, limit=LARGEST_SEED
    )
    run_id: str = option(
        "", "name of the run and its folder (if not given: a fresh one)", free_on_resume=True
    )
    output_dir: str = option("outputs", "folder that holds the run folders", free_on_resume=True)
    resume: str | None = option(
        None,
        "auto: continue run_id where it stopped; else a run folder or checkpoint to continue",
        free_on_resume=True,
    )
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    governance: GovernanceConfig = field(default_factory=GovernanceConfig)
    lifecycle: LifecycleConfig = field(default_factory=lambda: LifecycleConfig(enabled=False))
    edits: EditsConfig = field(default_factory=EditsConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    tracking: TrackingConfig = field(
        default_factory=TrackingConfig, metadata={"free_on_resume": True}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "")
        if self.run_id:
            check_run_id(self.run_id)
        if not self.output_dir:
            raise UserError(
                "configuration: output_dir is empty, expected a folder; name one, such as outputs"
            )
        if "${" in self.output_dir:
            # Hydra would resolve the reference wherever the folder's name is used.
            raise UserError(
                f"configuration: output_dir={self.output_dir}, expected a folder without ${{ in "
                f"its name; choose another folder"
            )


def is_plain(name: str) -> bool:
    """Return whether a folder's name can be a run id."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,149}", name)
    return plain is not None and name.lower() not in RESERVED_RUN_IDS


def plain_name(name: str) -> str:
    """Return a run id for a run whose folder may have any name."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name)[-150:].lstrip("._+-")


def check_run_id(run_id: str) -> None:
    """Refuse a reserved run id, or one that could lead out of output_dir. Raises UserError."""
    if not is_plain(run_id):
        raise UserError(
            f"configuration: run_id={run_id}, expected letters, digits and . _ - + (not "
            f"{', '.join(RESERVED_RUN_IDS)}; at most 150 characters); choose another name"
        )
