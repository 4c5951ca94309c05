"""Options that a person set and that another choice leaves without effect."""

from __future__ import annotations

from collections.abc import Iterable

from chronorun.config.data import Source, TokenizerKind
from chronorun.config.run import RunConfig
from chronorun.config.training import Schedule


def ignored_options(config: RunConfig, given: Iterable[str]) -> list[str]:
    """Return one line for each given key that has no effect beside the others."""
    not_synthetic = (config.data.source is not Source.synthetic, "data is not synthetic")
    without_effect = {
        "data.files": (config.data.source is not Source.text, "data is not text"),
        "data.synthetic_domains": not_synthetic,
        "data.synthetic_seed": not_synthetic,
        "tokenizer.vocab_size": (
            config.tokenizer.kind is TokenizerKind.byte,
            "the byte tokenizer always has 256 tokens; add tokenizer=bpe",
        ),
        "router.bias_update_rate": (
            not config.router.loss_free,
            "balancing is not loss-free; add router=loss_free",
        ),
        "optimizer.wsd_decay_fraction": (
            config.optimizer.schedule is not Schedule.wsd,
            "the schedule is not wsd; add optimizer=adamw_wsd",
        ),
        "optimizer.min_lr_ratio": (
            config.optimizer.schedule is Schedule.constant,
            "the schedule is constant",
        ),
    }
    return [
        f"{key} has no effect: {reason}"
        for key, (ignored, reason) in without_effect.items()
        if ignored and key in set(given)
    ]
