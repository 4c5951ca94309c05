"""One line of ``lifecycle_evaluations.jsonl``: what one layer's policies read and concluded."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from chronorun.lifecycle.decide.cycle import Outcome
from chronorun.lifecycle.decide.policy_state import LayerPolicy
from chronorun.lifecycle.decide.signals import LayerSignals


def signals_checksum(signals: Any) -> int:
    """Return the checksum by which a replay notices signals that were changed afterwards."""
    return zlib.crc32(msgspec.json.encode(signals))


def evaluation_record(s: LayerSignals, layer: LayerPolicy, outcome: Outcome) -> dict[str, Any]:
    """Return the record of one layer; ``layer`` is its policy state after the evaluation."""
    return {
        "step": s.step,
        "checkpoint": outcome.checkpoint,
        "layer_id": s.layer_id,
        "cycle": outcome.is_cycle,
        "candidates": [v.to_dict() for v in outcome.verdicts if v.candidate.layer_id == s.layer_id],
        "judgements": [
            j.to_dict() for j in outcome.judgements if j.probation.layer_id == s.layer_id
        ],
        "suspects": [name for layer_id, name in outcome.suspects if layer_id == s.layer_id],
        "counters": layer.counters,
        "patience_multipliers": layer.multipliers,
        "signals": s,
        "signals_crc32": signals_checksum(s),
    }
