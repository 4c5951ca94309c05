"""Text sampled from a trained run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chronorun.config.fields import LARGEST_SEED
from chronorun.config.pasting import resume_command
from chronorun.config.run import RunConfig
from chronorun.config.saved import read_run_config as read_run_config
from chronorun.core.run_files import CONFIG, TOKENIZER
from chronorun.core.state import unpack
from chronorun.data import Tokenizer, load_tokenizer
from chronorun.errors import StorageError, UserError
from chronorun.model import GPT, Twin
from chronorun.training.checkpoints.folder import (
    Checkpoint,
    best_of,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
)
from chronorun.training.heartbeat import attach_lens

LOWEST_TEMPERATURE = 1e-30
"""Above 0, what logits in float32 can be divided by."""


def _pick_checkpoint(run_dir: Path, which: str) -> Checkpoint:
    if which not in ("last", "best"):
        return load_checkpoint(Path(which))
    last, notices = newest_good_checkpoint(run_dir)
    if last is None:
        reason = f" ({notices[0]})" if notices else ""
        raise StorageError(
            f"run: {run_dir} holds no usable checkpoint{reason}, expected checkpoints/step_*; "
            f"train it further with {resume_command(run_dir)}"
        )
    best = last.state.get("best")
    if which == "last" or not best:
        return last
    path = best_of(list_checkpoints(run_dir), int(best["step"]))
    return load_checkpoint(path) if path is not None else last


def load_run_model(run_dir: Path, checkpoint: str = "last") -> tuple[GPT, Tokenizer, RunConfig]:
    """Load a run's model in eval mode, its tokenizer and its configuration.

    ``checkpoint`` is ``last``, ``best`` or a checkpoint's path. The population comes first: layers
    may have gained and lost experts since the start. Raises UserError for what is not a run folder,
    StorageError for what cannot be read.
    """
    config = read_run_config(run_dir)
    saved = _pick_checkpoint(run_dir, checkpoint)
    tensors = saved.tensors["model"]
    try:
        population = saved.state["population"]
        # Weights are drawn before they are loaded; the caller's random numbers are not spent on it.
        with torch.random.fork_rng(devices=[]):
            model = GPT(
                config.model,
                config.router,
                tensors["embedding.weight"].shape[0],
                experts_per_layer=[population[str(i)] for i in range(len(population))],
            )
        model.load_state_dict(tensors)
        _attach_lenses(model, saved, config)
        _pair_twins(model, saved)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise StorageError(
            f"checkpoint: {saved.path} does not fit {run_dir / CONFIG} ({first}); "
            f"name a checkpoint of this run"
        ) from error
    return model.eval(), load_tokenizer(run_dir / TOKENIZER), config


def _attach_lenses(model: GPT, saved: Checkpoint, config: RunConfig) -> None:
    """Put the lenses back as they stood: where one acts, the model does not route without it."""
    states = unpack(saved.state.get("heartbeat", {}).get("lenses", {}), saved.tensors["state"])
    for layer in model.moe_layers():
        state = states.get(str(layer.layer_id))
        if state is not None:
            lens = attach_lens(layer, config.governance.lens_rank, torch.device("cpu"))
            lens.load_state(state)


def _pair_twins(model: GPT, saved: Checkpoint) -> None:
    """Let the pairs that were exclusive be so: their members do not compete yet."""
    kept = saved.state.get("heartbeat", {}).get("lifecycle")
    if kept is None:
        return
    planes = unpack(kept["population"]["planes"], saved.tensors["state"])
    for layer in model.moe_layers():
        slots = kept["registry"]["slots"][str(layer.layer_id)]
        layer.set_twins(
            [
                Twin(slots.index(parent), slots.index(child), **planes[child])
                for child, parent in kept["registry"]["twins"].items()
                if child in slots
            ]
        )


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
    slides. Raises as ``load_run_model``, and UserError for numbers out of range.
    """
    for name, value, least in (("tokens", max_tokens, 1), ("top_k", top_k, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"sample: {name}={value}, expected >= {least}; choose another value")
    if seed > LARGEST_SEED:
        raise UserError(
            f"sample: seed={seed}, expected >= 0 and <= {LARGEST_SEED}; choose another value"
        )
    if not temperature >= 0:
        raise UserError(
            f"sample: temperature={temperature:g}, expected >= 0; use 0 for the likeliest token"
        )
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise UserError(
            f"sample: temperature={temperature:g}, expected 0 or >= {LOWEST_TEMPERATURE:g}; "
            f"use 0 for the likeliest token"
        )
    model, tokenizer, config = load_run_model(run_dir, checkpoint)
    # A model needs something to look at: an empty prompt starts after a line end.
    ids = list(tokenizer.encode(prompt) or tokenizer.encode("\n"))
    start = len(ids)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(max_tokens):
            window = torch.tensor([ids[-config.model.context_length :]])
            ids.append(_draw(model(window).logits[0, -1], temperature, top_k, generator))
    return tokenizer.decode(ids[start:])


def _draw(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    values, tokens = logits_V.topk(min(top_k, logits_V.numel()))
    # The largest is subtracted first, so that no temperature, however low, overflows.
    weights = torch.softmax((values - values[0]) / temperature, dim=-1)
    return int(tokens[torch.multinomial(weights, 1, generator=generator)])
