"""The optimizer and its schedule (group ``optimizer``) and the loop (group ``training``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.errors import UserError


class Schedule(Enum):
    """Learning-rate schedules, each a pure function of the step."""

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
    beta1: float = option(0.9, "decay of the first moment", at_least=0.0, below=1.0)
    beta2: float = option(0.95, "decay of the second moment", at_least=0.0, below=1.0)
    eps: float = option(1e-8, "added to the denominator", above=0.0)
    weight_decay: float = option(0.1, "decoupled weight decay of matrices", at_least=0.0)
    grad_clip: float = option(1.0, "largest gradient norm (0: no clipping)", at_least=0.0)
    schedule: Schedule = option(Schedule.cosine, "decay after the warm-up")
    warmup_steps: int = option(50, "linear warm-up", unit="steps", at_least=0)
    min_lr_ratio: float = option(0.1, "last learning rate over the peak", at_least=0.0, at_most=1.0)
    wsd_decay_fraction: float = option(
        0.2, "share of all steps in the decay of wsd", above=0.0, at_most=1.0
    )

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer")


@dataclass
class TrainingConfig:
    """Steps, batches, evaluation, checkpoints, device."""

    max_steps: int = option(500, "optimizer steps", unit="steps", at_least=1)
    batch_size: int = option(
        16, "sequences of one step", unit="sequences", at_least=1, limit=1_048_576
    )
    grad_accum_steps: int = option(
        1,
        "micro-batches one step is cut into; loss and gradients are those of the whole batch (for "
        "the balancing loss its routing is counted first, in a pass without gradients: up to a "
        "third more work; router.capacity_factor limits each micro-batch by itself, "
        "and dropout and router noise draw other numbers)",
        at_least=1,
        limit=1_048_576,
    )
    eval_interval: int = option(
        20,
        "steps between evaluation checkpoints (snapshot, controller)",
        unit="steps",
        at_least=1,
        limit=10_000_000,
    )
    eval_batches: int = option(
        4, "fixed validation batches per evaluation", at_least=1, limit=1_000_000
    )
    final_eval_batches: int = option(
        32, "fixed validation batches at the end", at_least=1, limit=1_000_000
    )
    checkpoint_interval: int = option(
        200, "steps between saved checkpoints (0: only the last)", unit="steps", at_least=0
    )
    keep_last: int = option(2, "newest checkpoints kept", at_least=1)
    keep_best: bool = option(True, "keep the checkpoint of lowest validation loss as well")
    device: Device = option(Device.auto, "auto takes a GPU when there is one")
    precision: Precision = option(Precision.auto, "auto: bf16 on CUDA, fp32 on the CPU")
    threads: int | None = option(
        None,
        "CPU threads (null: OMP_NUM_THREADS, else the cores that this process may use; the "
        "processes of one machine share them)",
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
