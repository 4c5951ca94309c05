"""The root of a training run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from chronorun.config.data import DataConfig, TokenizerConfig
from chronorun.config.fields import check_ranges, option
from chronorun.config.governance import GovernanceConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.observing import TelemetryConfig, TrackingConfig
from chronorun.config.scenario import ScenarioConfig
from chronorun.config.training import OptimizerConfig, TrainingConfig


@dataclass
class RunConfig:
    """Everything that defines one training run."""

    seed: int = option(0, "seed of weights, batches and every other draw", at_least=0)
    run_id: str = option("", "name of the run and of its folder (a fresh one if not given)")
    output_dir: str = option("outputs", "folder that holds the run folders")
    resume: str | None = option(
        None, "auto: continue run_id where it stopped; or a run folder or checkpoint to continue"
    )
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    governance: GovernanceConfig = field(default_factory=GovernanceConfig)
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_ranges(self, "config")
