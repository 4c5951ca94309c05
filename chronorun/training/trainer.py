"""The training loop of one run: steps, evaluations, logs, saved checkpoints.

A step is counted when it is done: row ``step: 20`` of metrics.jsonl describes the model after 20
updates, and so does the checkpoint folder ``step_00000020``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from chronorun.config.pasting import resume_command
from chronorun.core.processes import digest_plain, digest_tensors
from chronorun.core.state import pack, unpack
from chronorun.data import domain_batches, fixed_batches
from chronorun.errors import RunInterrupted
from chronorun.lifecycle.record.telling import describe
from chronorun.model import GPT
from chronorun.training.checkpoints.folder import (
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    prune_checkpoints,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from chronorun.training.context import Part, RunContext
from chronorun.training.evaluate import evaluate
from chronorun.training.heartbeat import Heartbeat
from chronorun.training.scenarios import Scenario
from chronorun.training.stepping import Stepper, StepResult, autocast
from chronorun.training.stop_request import StopRequest
from chronorun.training.summary import COLUMNS, decision_rows, lifecycle_summary


class Trainer:
    """Runs the steps of one run, from the current one to ``training.max_steps``."""

    def __init__(
        self,
        context: RunContext,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        heartbeat: Heartbeat,
        scenario: Scenario,
    ) -> None:
        self.context = context
        config, corpus = self.config, self.corpus = context.config, context.corpus
        self.logs, self.tracker = context.logs, context.tracker
        self.device, self.processes = context.device, context.processes
        self.model = model
        self.optimizer = optimizer
        self.heartbeat = heartbeat
        self.scenario = scenario
        self.parts: dict[str, Part] = {"heartbeat": heartbeat, "scenario": scenario}
        train = corpus.split("train")
        self.stepper = Stepper(config, model, optimizer, train, self.device, self.processes)
        self.step = 0
        self.best: dict[str, float] | None = None
        self.last: dict[str, float] = {}
        self.alerts_total = 0
        self._alerting: set[str] = set()
        self.eval_tokens = 0
        self.train_seconds = 0.0
        self.wall_before = 0.0
        self.started = time.perf_counter()
        self._val_batches = self._fixed(config.training.eval_batches)
        # Cut now: what is too short for them must not end a run after its last step.
        self._final_batches = self._fixed(config.training.final_eval_batches)
        self._domain_batches = domain_batches(
            corpus.split("val"),
            n=config.training.final_eval_batches,
            batch_size=config.training.batch_size,
            context_length=config.model.context_length,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens one step trains on."""
        return self.config.training.batch_size * self.config.model.context_length

    @property
    def wall_seconds(self) -> float:
        """Seconds this run has taken, those before a resume included."""
        return self.wall_before + time.perf_counter() - self.started

    def run(self, stop: StopRequest) -> None:
        """Train to the last step; on a stop request save first, then raise RunInterrupted."""
        training = self.config.training
        # The first process may have had trackers to start.
        self.processes.wait()
        self._agree("configuration, corpus and initial weights")
        mark, steps_since = time.perf_counter(), 0
        while self.step < training.max_steps:
            result = self._train_step()
            steps_since += 1
            log_now = self.step % self.config.tracking.log_interval == 0
            beat_now = self.step % training.eval_interval == 0 or self.step == training.max_steps
            metrics: dict[str, float] = {}
            if log_now or beat_now:
                metrics |= self._figures(result)
                elapsed = time.perf_counter() - mark
                self.train_seconds += elapsed
                self._time(steps_since, elapsed)
            if beat_now:
                metrics |= self._evaluation(result)
            if metrics:
                self.logs.metrics.write({"step": self.step} | metrics)
                self.last |= metrics
                rate = steps_since * self.tokens_per_step / max(elapsed, 1e-9)
                self.tracker.log(self.step, metrics | {"tokens_per_second": rate})
                mark, steps_since = time.perf_counter(), 0
            self._save_if_due(stop)
        if "val/final_loss" not in self.last:
            # It failed where the last step was made; that step was saved.
            losses = self._final_losses()
            self.logs.metrics.write({"step": self.step} | losses)
            self.last |= losses
            self.tracker.log(self.step, losses)

    def _train_step(self) -> StepResult:
        for record in self.scenario.before_step(self.step):
            self._log_scenario(record)
        for decision in self.heartbeat.begin_step(self.step):
            self.tracker.notice(describe(decision))
        domains = self.scenario.domain_weights(self.step)
        result = self.stepper.take(self.step, self.heartbeat.before_forward, domains)
        self.step += 1
        self.heartbeat.end_step(self.step, result.loss)
        return result

    def _log_scenario(self, record: dict[str, Any]) -> None:
        self.logs.scenario_events.write(record)
        line = f"step {record['step']}: {record['scenario']} {record['event']}"
        if "recovery_checkpoints" in record:
            line += (
                f" in layer {record['layers'][0]}, {record['recovery_checkpoints']} checkpoints "
                f"({record['recovery_steps']} steps) after the stress ended"
            )
        self.tracker.notice(line)

    def _figures(self, result: StepResult) -> dict[str, float]:
        if self.device.type == "cuda":
            self.stepper.check_finite(self.step)
        return {
            "train/loss": result.loss.item(),
            "train/load_balancing_loss": result.load_balancing_loss.item(),
            "train/router_z_loss": result.router_z_loss.item(),
            "train/grad_norm": result.grad_norm.item(),
            "train/lr": result.lr,
        }

    def _time(self, steps: int, seconds: float) -> None:
        rate = steps * self.tokens_per_step / max(seconds, 1e-9)
        self.logs.timings.write(
            {"step": self.step, "steps": steps, "seconds": seconds, "tokens_per_second": rate}
        )

    def _evaluation(self, result: StepResult) -> dict[str, float]:
        metrics = {"val/loss": self._evaluate(self._val_batches)}
        finite = math.isfinite(metrics["val/loss"])
        if finite and (self.best is None or metrics["val/loss"] < self.best["val_loss"]):
            self.best = {"val_loss": metrics["val/loss"], "step": self.step}
        beat = self.heartbeat.beat(self.step, result.loss.item(), metrics["val/loss"])
        if beat.snapshot is not None:
            for record in self.scenario.after_checkpoint(self.step, beat.snapshot, beat.decisions):
                self._log_scenario(record)
        for decision in beat.actions:
            # A birth is announced when it is let in, before the next step.
            fades = decision.action in ("PRUNE", "MERGE")
            if decision.integrated_step is not None or decision.dry_run or fades:
                self.tracker.notice(describe(decision))
        self._alert(beat.alerts)
        if self.step == self.config.training.max_steps:
            metrics |= self._final_losses_or_save(metrics | beat.metrics)
        return metrics | beat.metrics

    def _alert(self, alerts: list[str]) -> None:
        """Show each alert when it begins; one that goes on is counted, and is in the snapshots."""
        self.alerts_total += len(alerts)
        # ``PRE_COLLAPSE: Layer 2: n_effective ...``: kind and layer, without the figures.
        begun = {":".join(alert.split(":")[:2]): alert for alert in alerts}
        for kind, alert in begun.items():
            if kind not in self._alerting:
                self.tracker.alert(self.step, alert)
        self._alerting = set(begun)

    def _final_losses(self) -> dict[str, float]:
        losses = {"val/final_loss": self._evaluate(self._final_batches)}
        for domain, batches in self._domain_batches.items():
            losses[f"val/final_loss/{domain}"] = self._evaluate(batches)
        return losses

    def _final_losses_or_save(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the losses at the end; where that fails, what was trained is saved first."""
        try:
            return self._final_losses()
        except Exception:
            if self.processes.world == 1:
                self.logs.metrics.write({"step": self.step, **metrics})
                self.last |= metrics
                self.save()
            raise

    def _fixed(self, n: int) -> list[Any]:
        return fixed_batches(
            self.corpus.split("val"),
            n=n,
            batch_size=self.config.training.batch_size,
            context_length=self.config.model.context_length,
        )

    def _evaluate(self, batches: list[Any]) -> float:
        self.eval_tokens += sum(batch[:, 1:].size for batch in batches)
        context = autocast(self.device, self.config.training.precision)
        return evaluate(self.model, batches, self.device, context)

    def _save_if_due(self, stop: StopRequest) -> None:
        training = self.config.training
        interval = training.checkpoint_interval
        done = self.step == training.max_steps
        due = done or (interval > 0 and self.step % interval == 0)
        # Whichever process was asked to stop: all do, after the same step.
        signal_number = self.processes.largest(stop.signal_number or 0)
        if due or signal_number:
            self.save()
            # One may have come meanwhile.
            signal_number = self.processes.largest(stop.signal_number or 0)
        if signal_number and not done:
            stop.ask(signal_number)
            raise RunInterrupted(
                f"interrupted after step {self.step}: everything is saved; "
                f"continue with: {resume_command(self.context.run_dir)}",
                signal_number,
            )

    def save(self) -> None:
        """Write a checkpoint of this step and drop those no longer kept.

        Of several processes all hand in what they have seen of an unfinished window, and the first
        writes it.
        """
        if self.device.type == "cuda":
            self.stepper.check_finite(self.step)
        self._agree(f"weights and optimizer state after step {self.step}")
        plain, tensors = pack(self._state())
        if self.processes.is_first:
            self._write(plain, tensors)
        self.processes.wait()

    def _write(self, plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        save_checkpoint(
            self.context.run_dir,
            self.step,
            {
                "model": dict(self.model.state_dict()),
                "optimizer": optimizer_tensors(self.model, self.optimizer),
                "state": tensors,
            },
            plain,
        )
        best = int(self.best["step"]) if self.best and self.config.training.keep_best else None
        prune_checkpoints(self.context.run_dir, self.config.training.keep_last, best)

    def _agree(self, what: str) -> None:
        """Compare what makes the next step with the other processes."""

        def digest() -> str:
            c = self.config
            parts = (c.seed, c.model, c.router, c.optimizer, c.training, c.telemetry, c.governance)
            plain = [self.step, self.corpus.corpus_hash, *parts, c.lifecycle, c.edits, c.scenario]
            weights = dict(self.model.state_dict())
            moments = optimizer_tensors(self.model, self.optimizer)
            return digest_plain([plain, digest_tensors(weights | moments)])

        self.processes.agree(what, digest)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "population": {str(x.layer_id): x.num_experts for x in self.model.moe_layers()},
            "best": self.best,
            "last": self.last,
            "alerts_total": self.alerts_total,
            "alerting": sorted(self._alerting),
            "eval_tokens": self.eval_tokens,
            "probe_tokens": self._probe_tokens(),
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "threads": torch.get_num_threads(),
            "rng": rng_state(),
            **{name: part.state_dict() for name, part in self.parts.items()},
            "logs": self.logs.state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, bit-equal to a run that never stopped.

        The model's population must already be the checkpoint's; the logs were resumed before.
        """
        state = unpack(checkpoint.state, checkpoint.tensors["state"])
        self.model.load_state_dict(checkpoint.tensors["model"])
        load_optimizer_tensors(self.model, self.optimizer, checkpoint.tensors["optimizer"])
        self.step = state["step"]
        self.best, self.last = state["best"], state["last"]
        self.alerts_total = state["alerts_total"]
        self._alerting = set(state["alerting"])
        # A checkpoint of before these were counted has none.
        self.eval_tokens = state.get("eval_tokens", 0)
        if self.heartbeat.probe is not None:
            self.heartbeat.probe.tokens = state.get("probe_tokens", 0)
        self.train_seconds, self.wall_before = state["train_seconds"], state["wall_seconds"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.heartbeat.check_window(self.step)
        set_rng_state(state["rng"])

    def show_decisions(self) -> None:
        """Hand the table of structural decisions to the trackers."""
        lifecycle = self.heartbeat.lifecycle
        if lifecycle is not None:
            self.tracker.table("lifecycle/decisions", COLUMNS, decision_rows(lifecycle))

    def _probe_tokens(self) -> int:
        probe = self.heartbeat.probe
        return 0 if probe is None else probe.tokens

    def summary(self, status: str, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Return what summary.json holds; ``extra`` adds what only the runner knows."""
        val = self.last.get("val/final_loss", self.last.get("val/loss", math.nan))
        tokens = self.step * self.tokens_per_step
        prefix = "val/final_loss/"
        return {
            "run_id": self.config.run_id,
            "status": status,
            "steps": self.step,
            "tokens": tokens,
            "eval_tokens": self.eval_tokens,
            "probe_tokens": self._probe_tokens(),
            "vocab_size": self.corpus.vocab_size,
            "train_loss": self.last.get("train/loss", math.nan),
            "val_loss": val,
            "val_loss_per_byte": val / self.corpus.bytes_per_token,
            "val_loss_by_domain": {
                key.removeprefix(prefix): value
                for key, value in self.last.items()
                if key.startswith(prefix)
            },
            "tokens_per_second": tokens / self.train_seconds if self.train_seconds else 0.0,
            "parameters": self.model.parameter_counts(),
            "population": {str(x.layer_id): x.num_experts for x in self.model.moe_layers()},
            **lifecycle_summary(self.heartbeat.lifecycle),
            "alerts_total": self.alerts_total,
            "wall_seconds": self.wall_seconds,
            **extra,
        }
