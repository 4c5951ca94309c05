"""One optimizer step: batch, forward, backward, guard against non-finite values, update."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chronorun.config.run import RunConfig
from chronorun.config.training import Device, Precision
from chronorun.core.processes import ALONE, Processes
from chronorun.data import TokenSplit, train_batch
from chronorun.errors import NonFiniteError, UserError
from chronorun.model import GPT
from chronorun.training.batch_balance import WholeBatch
from chronorun.training.data_parallel import Replica
from chronorun.training.schedule import learning_rate

MicroBatchHook = Callable[[Tensor], None]


@dataclass(frozen=True)
class StepResult:
    """Figures of one step, still on the device: mean loss, auxiliary losses, gradient norm.

    They are of the global batch, and the same in all processes.
    """

    loss: Tensor
    load_balancing_loss: Tensor
    router_z_loss: Tensor
    grad_norm: Tensor
    lr: float


def choose_device(device: Device, processes: Processes = ALONE) -> torch.device:
    """Return the device to compute on; ``auto`` takes a GPU when there is one.

    Of several processes on a machine each takes a GPU of its own. Raises UserError without one.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError(
            "device: training.device=cuda, expected a CUDA GPU, found none; "
            "use training.device=auto"
        )
    if device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    if processes.world == 1:
        return torch.device("cuda")
    local = processes.place.local_rank
    if local >= torch.cuda.device_count():
        raise UserError(
            f"device: {torch.cuda.device_count()} GPUs, expected one for each process of this "
            f"machine (LOCAL_RANK={local}); start fewer, or use training.device=cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def check_batch(config: RunConfig, world: int, *, resumed: bool = False) -> None:
    """Refuse a batch that cannot be cut into equal parts. Raises UserError.

    A run that is ``resumed`` keeps its batch: the advice is then what it can be resumed on.
    """
    training = config.training
    sequences = training.batch_size // training.grad_accum_steps
    if training.batch_size % (world * training.grad_accum_steps) == 0:
        return
    step = "change one of them"
    if resumed:
        *fewer, most = (str(n) for n in range(1, sequences + 1) if sequences % n == 0)
        step = f"resume it with {', '.join(fewer) + ' or ' if fewer else ''}{most} of them"
    raise UserError(
        f"processes: training.batch_size={training.batch_size}, expected a multiple of {world} "
        f"processes x training.grad_accum_steps={training.grad_accum_steps}; {step}"
    )


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Return the autocast context of a forward pass; ``auto`` is bf16 on CUDA, fp32 on the CPU."""
    bf16 = precision is Precision.bf16 or (precision is Precision.auto and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


class Stepper:
    """Takes training steps; the batch and the learning rate are pure functions of the step.

    Of several processes each takes its rows of the batch, and the same update.
    """

    def __init__(
        self,
        config: RunConfig,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        split: TokenSplit,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.split = split
        self.device = device
        self.processes = processes
        self.replica = Replica(model, processes)
        coefficient = config.router.load_balancing_coef
        self.whole_batch = WholeBatch(model, processes, coefficient)
        # On a GPU the update itself is skipped on the device (fused AdamW reads found_inf), and the
        # host looks at the flag only where it logs anyway: no sync inside a step.
        self.non_finite = torch.zeros((), device=device)

    def take(
        self,
        step: int,
        before_forward: MicroBatchHook,
        domain_weights: Mapping[str, float] | None = None,
    ) -> StepResult:
        """Take step ``step`` (counted from 0). Raises NonFiniteError before a bad update."""
        training = self.config.training
        lr = learning_rate(step, self.config.optimizer, training.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = train_batch(
            self.split,
            seed=self.config.seed,
            step=step,
            batch_size=training.batch_size,
            context_length=self.config.model.context_length,
            domain_weights=domain_weights,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        self._draw_apart(step)
        tokens = torch.from_numpy(batch).to(self.device, non_blocking=True)
        sums = self._accumulate(tokens, before_forward)
        norm = self._clip()
        self._guard(step, sums[0] + norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.model.moe_layers():
            layer.router.update_selection_bias(layer.num_groups)
        return StepResult(sums[0], sums[1], sums[2], norm, lr)

    def _accumulate(self, tokens: Tensor, before_forward: MicroBatchHook) -> Tensor:
        router, parts = self.config.router, self.config.training.grad_accum_steps
        sums = torch.zeros(3, device=self.device)
        model = self.replica.forward_as()
        micros = tokens.chunk(parts)
        with self.whole_batch.seen_by([micro[:, :-1] for micro in micros], self._autocast) as seen:
            for part, micro in enumerate(micros, start=1):
                inputs, targets = micro[:, :-1], micro[:, 1:]
                before_forward(inputs)
                with self.replica.keep_apart(part < parts):
                    with self._autocast():
                        out = model(inputs, targets)
                    assert out.loss is not None
                    total = (
                        out.loss
                        + router.load_balancing_coef * out.load_balancing_loss
                        + router.z_loss_coef * out.router_z_loss
                    )
                    (total / parts).backward()
                terms = torch.stack([out.loss, out.load_balancing_loss, out.router_z_loss])
                sums += terms.detach() / parts
            if seen is not None:
                sums[1] = seen.loss()
        # A NaN of one process is one of all: they stop together.
        return self.processes.mean(sums)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.device, self.config.training.precision)

    def _draw_apart(self, step: int) -> None:
        """Give dropout and router noise other numbers in each process.

        The first goes on with the run's own random stream, which checkpoints hold; those of the
        others are functions of (seed, step, rank): a run resumes on any number of processes.
        """
        rank = self.processes.rank
        if rank > 0:
            digest = hashlib.sha256(f"{self.config.seed}|{step}|{rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))

    def _clip(self) -> Tensor:
        limit = self.config.optimizer.grad_clip
        return torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), limit if limit > 0 else float("inf")
        )

    def _guard(self, step: int, figure: Tensor) -> None:
        self.non_finite = torch.maximum(self.non_finite, (~torch.isfinite(figure)).float())
        if self.device.type == "cuda":
            self.optimizer.found_inf = self.non_finite  # type: ignore[attr-defined]
        else:
            self.check_finite(step)

    def check_finite(self, step: int) -> None:
        """Raise NonFiniteError if a loss or gradient since the start was NaN or infinite."""
        if self.non_finite.item():
            raise NonFiniteError(
                f"training: loss or gradient at step {step} is not finite, expected a number; "
                f"nothing was updated: lower optimizer.lr and resume from the last checkpoint"
            )
