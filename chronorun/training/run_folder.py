"""A run's folder: making it, its manifest, the link to it, its summary."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from omegaconf import DictConfig, OmegaConf

from chronorun.config.run import RunConfig
from chronorun.core.files import write_atomically
from chronorun.core.jsonl import encode_json
from chronorun.core.run_files import CONFIG, SUMMARY, TOKENIZER
from chronorun.data import TokenizedCorpus
from chronorun.telemetry.manifest import create_run_manifest
from chronorun.telemetry.writer import write_manifest
from chronorun.training.checkpoints.folder import remove_leftovers
from chronorun.training.logs import RunLogs


def open_run_folder(
    config: RunConfig,
    composed: DictConfig,
    run_dir: Path,
    corpus: TokenizedCorpus,
    device: torch.device,
    processes: int = 1,
) -> None:
    """Make the folder with config, manifest and tokenizer, and let ``outputs/run`` point at it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run_dir)
    named = _with_run_id(composed, config.run_id)
    # resolve=False: the value of an interpolation (a secret, say) is not written down.
    text = OmegaConf.to_yaml(named, resolve=False).encode()
    write_atomically(run_dir / CONFIG, text)
    write_manifest(run_dir, _manifest(config, named, corpus, device, processes))
    corpus.save_tokenizer(run_dir / TOKENIZER)
    # A job of a sweep lies elsewhere than under its own id.
    if run_dir == Path(config.output_dir) / config.run_id:
        point_at_newest(run_dir)


def _with_run_id(composed: DictConfig, run_id: str) -> DictConfig:
    # ${new_run_id:} would name another run each time the file is read.
    named = composed.copy()
    OmegaConf.set_readonly(named, False)
    named.run_id = run_id
    return named


def point_at_newest(run_dir: Path) -> None:
    """Point the link ``run``, next to the run folder, to this run, atomically.

    A real folder of that name is left alone. Where links are not to be had there is none: it is a
    convenience, and no reason to lose a run.
    """
    link = run_dir.parent / "run"
    if link.exists() and not link.is_symlink():
        return
    fresh = run_dir.parent / f".run-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    with contextlib.suppress(OSError, NotImplementedError):
        fresh.symlink_to(run_dir.name, target_is_directory=True)
        fresh.replace(link)


def _manifest(
    config: RunConfig,
    composed: DictConfig,
    corpus: TokenizedCorpus,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    model, training = config.model, config.training
    details = {
        "dataset": config.data.source.value,
        "seed": config.seed,
        "architecture": {
            "n_layers": model.num_moe_layers,
            "n_experts_per_layer": [model.num_experts] * model.num_moe_layers,
            "top_k": model.top_k,
            "capacity_factor": config.router.capacity_factor,
            "blocks": model.n_layers,
            "d_model": model.d_model,
        },
        "training": {
            "max_steps": training.max_steps,
            "batch_size": training.batch_size,
            "context_length": model.context_length,
            "lr": config.optimizer.lr,
        },
        "corpus_hash": corpus.corpus_hash,
        "corpus_bytes": corpus.n_bytes,
        "keeps_tokenizer": corpus.keeps_tokenizer,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": processes,
        "config": OmegaConf.to_container(composed, resolve=False, enum_to_str=True),
    }
    return create_run_manifest(config.run_id, "gpt-moe", details)


def finish_run_folder(run_dir: Path, summary: dict[str, Any], logs: RunLogs) -> None:
    """Write ``summary.json``, atomically, with the final sha256 of each log under ``logs``."""
    record = summary | {"logs": logs.hashes()}
    text = msgspec.json.format(encode_json(record), indent=2)
    write_atomically(run_dir / SUMMARY, text + b"\n")
