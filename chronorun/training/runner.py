"""One training run from its configuration to its summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from chronorun.config.run import RunConfig
from chronorun.core.processes import ALONE, Processes
from chronorun.core.run_files import CHECKPOINTS, TOKENIZER
from chronorun.core.threads import default_threads
from chronorun.core.tracker import RunInfo, Tracker
from chronorun.data import TokenizedCorpus, load_corpus
from chronorun.errors import StorageError
from chronorun.model import GPT
from chronorun.training.checkpoints.folder import (
    Checkpoint,
    as_checkpoint_error,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    set_aside_newer,
)
from chronorun.training.context import RunContext
from chronorun.training.corpus_check import check_same_corpus, keeps_tokenizer
from chronorun.training.heartbeat import Heartbeat
from chronorun.training.logs import RunLogs
from chronorun.training.notices import planned_steps, start_notices
from chronorun.training.optimizer import build_optimizer
from chronorun.training.probe import Probe
from chronorun.training.run_end import RunEnd
from chronorun.training.run_folder import open_run_folder
from chronorun.training.scenarios import build_scenario
from chronorun.training.stepping import choose_device
from chronorun.training.stop_request import StopRequest
from chronorun.training.trainer import Trainer


def run_training(
    config: RunConfig,
    composed: DictConfig,
    run_dir: Path,
    trackers: Tracker,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train as configured and return the summary (also in ``run_dir/summary.json``).

    Raises UserError, StorageError, NonFiniteError, RanksDisagreeError or RunInterrupted; logs and
    trackers are closed in every case. Of several processes the first alone writes; ``run_dir`` is
    a folder that all can read.
    """
    device = choose_device(config.training.device, processes)
    corpus = _corpus(config, run_dir, trackers, processes)
    checkpoint = _checkpoint_of_all(config, run_dir, trackers, processes)
    _set_threads(config, checkpoint, processes)
    if processes.is_first:
        for notice in _start_notices(config, run_dir, checkpoint):
            trackers.notice(notice)
        open_run_folder(config, composed, run_dir, corpus, device, processes.world)
    saved = checkpoint.state["logs"] if checkpoint else None
    logs = RunLogs(run_dir, saved, writes=processes.is_first)
    context = RunContext(config, run_dir, device, corpus, logs, trackers, processes)
    with RunEnd(context, _baseline(corpus) | {"run_dir": str(run_dir)}) as end:
        with as_checkpoint_error(checkpoint, processes):
            trainer = _build(context, checkpoint)
        end.trainer = trainer
        trackers.start(_run_info(trainer, composed, resumed=checkpoint is not None))
        with StopRequest(launched=processes.place.launched) as stop:
            trainer.run(stop)
        trainer.heartbeat.write_waiting()
    return end.summary


def _corpus(
    config: RunConfig, run_dir: Path, trackers: Tracker, processes: Processes
) -> TokenizedCorpus:
    """Return the corpus, which for a run that goes on is the one it was started with."""
    goes_on = config.resume is not None and bool(list_checkpoints(run_dir))
    keeps = goes_on and (config.data.accept_changes or keeps_tokenizer(run_dir))
    own = run_dir / TOKENIZER if keeps else None
    shortest = config.model.context_length + 1
    with processes.first_goes_ahead():
        corpus = load_corpus(
            config.data, config.tokenizer, min_tokens=shortest, given_tokenizer=own
        )
    notices = corpus.notices(config.data, shortest)
    if processes.from_first("goes on" if goes_on else ""):
        changed = check_same_corpus(run_dir, corpus, config.data.accept_changes, processes)
        notices += [changed] if changed else []
    for notice in notices if processes.is_first else ():
        trackers.notice(notice)
    return corpus


def _checkpoint_of_all(
    config: RunConfig, run_dir: Path, trackers: Tracker, processes: Processes
) -> Checkpoint | None:
    """Return the checkpoint that the first process chooses to go on from, if any."""
    checkpoint = None
    if processes.is_first:
        checkpoint = _checkpoint_to_resume(config, run_dir, trackers)
    chosen = processes.from_first("" if checkpoint is None else str(checkpoint.path))
    return load_checkpoint(Path(chosen)) if chosen and checkpoint is None else checkpoint


def _checkpoint_to_resume(config: RunConfig, run_dir: Path, trackers: Tracker) -> Checkpoint | None:
    if config.resume is None:
        return None
    asked = Path(config.resume)
    notices: list[str] = []
    checkpoint: Checkpoint | None
    if asked.parent.name == CHECKPOINTS:
        checkpoint = load_checkpoint(asked)
    else:
        checkpoint, notices = newest_good_checkpoint(run_dir)
    if checkpoint is None and config.resume != "auto":
        raise StorageError(
            f"resume: {config.resume} holds no usable checkpoint, expected checkpoints/step_*; "
            f"start the run anew or name another folder"
        )
    if checkpoint is not None:
        # A newer checkpoint belongs to the future that this resume replaces.
        notices += set_aside_newer(run_dir, checkpoint.step)
        notices.append(f"resuming {config.run_id} after step {checkpoint.step}")
    for notice in notices:
        trackers.notice(notice)
    return checkpoint


def _start_notices(
    config: RunConfig, run_dir: Path, checkpoint: Checkpoint | None
) -> Iterator[str]:
    """Return what to say before the run folder takes on the new configuration."""
    if checkpoint is None:
        return start_notices(config)
    return start_notices(config, checkpoint.step, planned_steps(run_dir))


def _set_threads(config: RunConfig, checkpoint: Checkpoint | None, processes: Processes) -> None:
    # The number of threads changes the order of floating-point sums: a resumed run keeps its own.
    saved = checkpoint.state["threads"] if checkpoint else None
    wanted = config.training.threads or default_threads(processes.place.local_world)
    # Processes of one run keep the same, or they part ways: machines may have other cores to give.
    torch.set_num_threads(processes.smallest(saved or wanted))


def _build(context: RunContext, checkpoint: Checkpoint | None) -> Trainer:
    config, corpus, device = context.config, context.corpus, context.device
    torch.manual_seed(config.seed)
    population = None
    if checkpoint is not None:
        saved = checkpoint.state["population"]
        population = [saved[str(layer)] for layer in range(len(saved))]
    model = GPT(
        config.model,
        config.router,
        corpus.vocab_size,
        experts_per_layer=population,
        generator=torch.Generator().manual_seed(config.seed),
    ).to(device)
    optimizer = build_optimizer(model, config.optimizer)
    probe = Probe(config, model, corpus.split("probe"), device)
    heartbeat = Heartbeat(context, model, optimizer, probe)
    scenario = build_scenario(config, model, corpus, heartbeat, optimizer)
    probe.domain_weights = scenario.domain_weights
    if heartbeat.lifecycle is not None:
        # A scenario may use another top-k than the model starts with: the floor must hold for all.
        heartbeat.lifecycle.expect_top_k(max(layer.top_k for layer in model.moe_layers()))
    trainer = Trainer(context, model, optimizer, heartbeat, scenario)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def _run_info(trainer: Trainer, composed: DictConfig, *, resumed: bool) -> RunInfo:
    # resolve=False: an interpolation such as ${oc.env:...} must not carry a secret into a tracker.
    plain = OmegaConf.to_container(composed, resolve=False, enum_to_str=True)
    assert isinstance(plain, dict)
    config = trainer.config
    return RunInfo(
        run_id=config.run_id,
        run_dir=trainer.context.run_dir,
        max_steps=config.training.max_steps,
        start_step=trainer.step,
        tokens_per_step=trainer.tokens_per_step,
        config={str(key): value for key, value in plain.items()},
        population={str(x.layer_id): x.num_experts for x in trainer.model.moe_layers()},
        resume_id=config.run_id if resumed else None,
    )


def _baseline(corpus: TokenizedCorpus) -> dict[str, float]:
    """Return the loss of a bigram model fitted to the same training split."""
    return {
        "bigram_loss": corpus.bigram_nats,
        "bigram_loss_per_byte": corpus.bigram_nats / corpus.bytes_per_token,
    }
