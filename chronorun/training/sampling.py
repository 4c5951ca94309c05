"""Text from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from chronorun.config.run import RunConfig
from chronorun.data import Tokenizer, load_tokenizer
from chronorun.errors import StorageError, UserError
from chronorun.model import GPT
from chronorun.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
)


def read_run_config(run_dir: Path) -> RunConfig:
    """Read ``config.yaml`` of a run folder. Raises UserError when this is not one."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"run: {run_dir} is not a run folder (no config.yaml); name one, such as outputs/run"
        )
    OmegaConf.register_new_resolver("new_run_id", lambda: run_dir.name, replace=True)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        first = str(error).splitlines()[0]
        raise StorageError(f"run: {path} cannot be read ({first}); restore the file") from error
    assert isinstance(config, RunConfig)
    return config


def _checkpoint(run_dir: Path, which: str) -> Checkpoint:
    if which == "last":
        found, _ = newest_good_checkpoint(run_dir)
        if found is None:
            raise StorageError(
                f"run: {run_dir} holds no usable checkpoint; train it further with "
                f"chronorun train resume={run_dir}"
            )
        return found
    if which == "best":
        best = _checkpoint(run_dir, "last").state["best"]
        step = int(best["step"]) if best else 0
        if checkpoint_path(run_dir, step).is_dir():
            return load_checkpoint(checkpoint_path(run_dir, step))
        before = [p for p in list_checkpoints(run_dir) if p.name <= f"step_{step:08d}"]
        return load_checkpoint(before[-1]) if before else _checkpoint(run_dir, "last")
    return load_checkpoint(Path(which))


def load_run_model(run_dir: Path, which: str = "last") -> tuple[GPT, Tokenizer, RunConfig]:
    """Load a run's model (population first, then tensors), tokenizer and configuration."""
    config = read_run_config(run_dir)
    checkpoint = _checkpoint(run_dir, which)
    population: dict[str, int] = checkpoint.state["population"]
    tensors = checkpoint.tensors["model"]
    model = GPT(
        config.model,
        config.router,
        tensors["embedding.weight"].shape[0],
        experts_per_layer=[population[str(i)] for i in range(len(population))],
    )
    model.load_state_dict(tensors)
    return model.eval(), load_tokenizer(run_dir / "tokenizer"), config


@torch.no_grad()
def sample_text(
    run_dir: Path,
    prompt: str,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 0,
    checkpoint: str = "last",
) -> str:
    """Return the continuation of a prompt; the same arguments give the same text.

    ``temperature`` 0 takes the likeliest token each time. Beyond the context length the window
    slides.
    """
    model, tokenizer, config = load_run_model(run_dir, checkpoint)
    # A model needs something to look at: an empty prompt starts after a line end.
    ids: list[Any] = tokenizer.encode(prompt) or tokenizer.encode("\n")
    start = len(ids)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(max_tokens):
        window = torch.tensor([ids[-config.model.context_length :]])
        logits = model(window).logits[0, -1]
        if temperature == 0:
            ids.append(int(logits.argmax()))
            continue
        values, tokens = logits.topk(min(top_k, logits.numel()))
        weights = torch.softmax(values / temperature, dim=-1)
        ids.append(int(tokens[torch.multinomial(weights, 1, generator=generator)]))
    return tokenizer.decode(ids[start:])
