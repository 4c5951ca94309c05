"""The optimizer and its schedule (group ``optimizer``) and the loop (group ``training``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.errors import UserError


class Schedule(Enum):
    """Learning-rate schedules after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


class Device(Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(Enum):
    """Arithmetic of the forward and backward pass; master weights are always float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@dataclass
class OptimizerConfig:
    """AdamW with warm-up and decay."""

    lr: float = option(3e-3, "peak learning rate", above=0.0)
    beta1: float = option(0.9, "decay rate of the first moment", at_least=0.0, below=1.0)
    beta2: float = option(0.95, "decay rate of the second moment", at_least=0.0, below=1.0)
    eps: float = option(1e-8, "term added to the denominator of an update", above=0.0)
    weight_decay: float = option(0.1, "decoupled weight decay of weight matrices", at_least=0.0)
    grad_clip: float = option(1.0, "maximum gradient norm (0: no clipping)", at_least=0.0)
    schedule: Schedule = option(Schedule.cosine, "learning rate after the warm-up")
    warmup_steps: int = option(50, "length of the linear warm-up", unit="steps", at_least=0)
    min_lr_ratio: float = option(0.1, "final learning rate / peak", at_least=0.0, at_most=1.0)
    wsd_decay_fraction: float = option(
        0.2, "fraction of all steps that wsd spends on its decay", above=0.0, at_most=1.0
    )

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer")


@dataclass
class TrainingConfig:
    """Steps, batches, evaluation, checkpoints, device."""

    max_steps: int = option(500, "optimizer steps", unit="steps", at_least=1, free_on_resume=True)
    batch_size: int = option(
        16, "sequences per step", unit="sequences", at_least=1, limit=1_048_576
    )
    grad_accum_steps: int = option(
        1,
        "micro-batches per step; loss and gradients are those of the whole batch (for the "
        "balancing loss, routing is counted first in a pass without gradients: up to a "
        "third more work; router.capacity_factor applies to each micro-batch, and dropout "
        "and router noise draw other numbers)",
        at_least=1,
        limit=1_048_576,
    )
    eval_interval: int = option(
        20,
        "steps between evaluations (losses, snapshots, controller, lifecycle)",
        unit="steps",
        at_least=1,
        limit=10_000_000,
    )
    eval_batches: int = option(
        4,
        "number of validation batches per evaluation, always the same ones",
        at_least=1,
        limit=1_000_000,
    )
    final_eval_batches: int = option(
        32, "number of validation batches at the end of the run", at_least=1, limit=1_000_000
    )
    checkpoint_interval: int = option(
        200,
        "steps between saved checkpoints (0: only the last one)",
        unit="steps",
        at_least=0,
        free_on_resume=True,
    )
    keep_last: int = option(
        2, "number of newest checkpoints to keep", at_least=1, free_on_resume=True
    )
    keep_best: bool = option(
        True, "also keep the checkpoint of the lowest validation loss", free_on_resume=True
    )
    device: Device = option(Device.auto, "auto uses a GPU if there is one")
    precision: Precision = option(Precision.auto, "auto uses bf16 on CUDA, fp32 on the CPU")
    threads: int | None = option(
        None,
        "CPU threads (null: OMP_NUM_THREADS, else the cores that this process may use, "
        "shared by the run's processes on one machine)",
        at_least=1,
        limit=4096,
    )

    def __post_init__(self) -> None:
        check_ranges(self, "training")
        if self.batch_size % self.grad_accum_steps:
            raise UserError(
                f"configuration: training.grad_accum_steps={self.grad_accum_steps}, expected a "
                f"divisor of training.batch_size={self.batch_size}; change one of the two"
            )
