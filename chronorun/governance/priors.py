"""Priors: what a run learned about its layers, saved for the next run."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from chronorun.config.governance import ControlConfig
from chronorun.core.files import write_atomically
from chronorun.core.run_files import PRIORS
from chronorun.errors import UserError
from chronorun.governance.policy import MODES, ControlState

_SHORT = {
    "layer_id": "l",
    "fragility": "f",
    "backoff_bias": "b",
    "scale_cap": "sc",
    "abstain_threshold": "at",
    "intervention_helped_ema": "ih",
    "preferred_mode": "pm",
    "mode_scores": "ms",
}
_V2_MODES = dict(enumerate((*MODES, "abstain")))


@dataclass
class LayerPriors:
    """Experience with one layer."""

    layer_id: int
    fragility: Annotated[float, msgspec.Meta(ge=0.5, le=2.0)] = 1.0
    backoff_bias: float = 1.0
    scale_cap: float | None = None
    abstain_threshold: float = 0.01
    intervention_helped_ema: float = 0.0
    preferred_mode: str = "anti_dominance"
    mode_scores: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MODES, 1.0))


def priors_of(states: Mapping[int, ControlState], config: ControlConfig) -> dict[int, LayerPriors]:
    """Derive priors from the states at the end of a run.

    ``fragility`` is the layer's lens scale over the mean of all layers, clamped to [0.5, 2]; 1
    where no lens acted. The scale is capped at the highest allowed, halved where interventions did
    harm.
    """
    scales = {i: state.prev_scale for i, state in states.items()}
    mean = sum(scales.values()) / max(1, len(scales))
    found = {}
    for i, state in states.items():
        hurt = state.intervention_helped_ema < 0
        found[i] = LayerPriors(
            layer_id=i,
            fragility=min(2.0, max(0.5, scales[i] / mean)) if mean > 0 else 1.0,
            backoff_bias=state.harm_backoff,
            scale_cap=config.lens_scale_max * (0.5 if hurt else 1.0),
            abstain_threshold=config.abstain_pressure_threshold,
            intervention_helped_ema=state.intervention_helped_ema,
            preferred_mode=state.active_mode,
            mode_scores=dict(state.mode_scores),
        )
    return found


def save_priors(
    states: Mapping[int, ControlState],
    path: str | Path,
    config: ControlConfig,
    compress: bool = True,
) -> None:
    """Write the priors of all layers as compact JSON, gzipped unless asked otherwise.

    Equal states give equal bytes (the gzip header carries no time).
    """
    compact = {
        str(i): {_SHORT[key]: value for key, value in vars(prior).items()}
        for i, prior in priors_of(states, config).items()
    }
    data = msgspec.json.encode({"v": 2, "p": compact})
    write_atomically(Path(path), gzip.compress(data, mtime=0) if compress else data)


def load_priors(path: str | Path) -> dict[int, LayerPriors]:
    """Read a priors file, gzipped or plain, with compact or long keys; or that of a run folder.

    Files of v2, which number the modes, are read as what they mean there.

    Raises UserError when there is none or it is not one.
    """
    file = Path(path)
    if file.is_dir():
        file = file / PRIORS
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        layers = msgspec.json.decode(data, type=dict[str, Any])
        entries = layers["p"] if "p" in layers else layers["priors"]
        entries = msgspec.convert(entries, dict[str, dict[str, Any]])
        return {int(key): _read(int(key), entry) for key, entry in entries.items()}
    except FileNotFoundError:
        raise UserError(
            f"priors: {file} does not exist, expected a run folder or its {PRIORS}; "
            f"correct governance.priors_from"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, msgspec.DecodeError) as error:
        raise UserError(
            f"priors: {file} is not a priors file ({error}); correct governance.priors_from"
        ) from error


def _read(layer_id: int, entry: Mapping[str, Any]) -> LayerPriors:
    values = {name: entry.get(name, entry.get(short)) for name, short in _SHORT.items()}
    if isinstance(values["preferred_mode"], int):
        values["preferred_mode"] = _V2_MODES.get(values["preferred_mode"])
    scores = values["mode_scores"]
    if isinstance(scores, list):
        values["mode_scores"] = dict(zip(MODES, scores, strict=False))
    known = {name: value for name, value in values.items() if value is not None}
    prior = msgspec.convert(known | {"layer_id": layer_id}, LayerPriors)
    if isinstance(scores, list) and "backoff_bias" in known:
        # Only v2 writes lists; its bias is what the backoff lacks to 1.
        prior.backoff_bias = 1.0 - prior.backoff_bias
    return prior


def apply_priors_to_state(state: ControlState, prior: LayerPriors) -> ControlState:
    """Start a layer with a prior's backoff, mode and scores; mutates and returns ``state``."""
    state.harm_backoff = min(1.0, max(0.1, prior.backoff_bias))
    if prior.preferred_mode in state.mode_scores:
        state.active_mode = prior.preferred_mode
    for mode, score in prior.mode_scores.items():
        if mode in state.mode_scores:
            state.mode_scores[mode] = min(1.0, max(0.0, float(score)))
    return state
