"""Find options that were given but have no effect because of another choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from chronorun.config.data import Source, TokenizerKind
from chronorun.config.lifecycle import LifecycleConfig, SplitRelease, TwoModeUse
from chronorun.config.run import RunConfig
from chronorun.config.training import Schedule

_ACTIONS = {
    "spawn": ("spawn", "revive"),
    "revive": ("revive",),
    "prune": ("prune",),
    "split": ("split",),
    "merge": ("merge",),
}
"""Actions that read the fields whose names begin with an action's, as far as they do not say."""
_USED_BY = {field.name: field.metadata["used_by"] for field in dataclasses.fields(LifecycleConfig)}


def ignored_options(config: RunConfig, given: Iterable[str]) -> list[str]:
    """Return one line for each given key that has no effect because of the others.

    A split threshold that no expert can reach is named whether it was given or not.
    """
    keys = set(given)
    reasons = {key: reason for key, (ignored, reason) in _conditions(config).items() if ignored}
    reasons |= _reasons_in_lifecycle(config.lifecycle, keys)
    lines = [f"{key} has no effect: {reason}" for key, reason in reasons.items() if key in keys]
    return [*lines, *_unreachable_split(config)]


def _conditions(config: RunConfig) -> dict[str, tuple[bool, str]]:
    """Return for each key whether it is ignored, and why."""
    not_synthetic = (config.data.source is not Source.synthetic, "data is not synthetic")
    not_text = (config.data.source is not Source.text, "data is not text")
    not_hub = (config.data.source is not Source.hub, "data is not hub")
    return {
        "data.files": not_text,
        "data.domain_by": not_text,
        "data.errors": not_text,
        "data.path": not_hub,
        "data.name": not_hub,
        "data.split": not_hub,
        "data.column": (not_text[0] and not_hub[0], "data is neither text nor hub"),
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


def _reasons_in_lifecycle(lifecycle: LifecycleConfig, given: Collection[str]) -> dict[str, str]:
    """Return why a key has no effect, for each field and action group that has none."""
    names = [field.name for field in dataclasses.fields(lifecycle) if field.name != "enabled"]
    if not lifecycle.enabled:
        switched = "lifecycle.enabled" in given
        why = (
            "lifecycle.enabled is false" if switched else "lifecycle is off; add lifecycle=default"
        )
        keys = [f"lifecycle.{name}" for name in names]
        return dict.fromkeys([*keys, *(f"lifecycle/{action}" for action in _ACTIONS)], why)
    reasons = {
        f"lifecycle.{name}": reason
        for name in names
        if not name.endswith("_enabled") and (reason := _idle(lifecycle, _users(name)))
    }
    # lifecycle/spawn=off takes effect by itself; only a field can contradict a group.
    reasons |= {
        f"lifecycle/{action}": reason
        for action, users in _ACTIONS.items()
        if f"lifecycle.{action}_enabled" in given and (reason := _idle(lifecycle, users))
    }
    return _unused_ways_to_split(lifecycle) | reasons


def _unused_ways_to_split(lifecycle: LifecycleConfig) -> dict[str, str]:
    reasons = {}
    if lifecycle.split_two_mode is TwoModeUse.off:
        reasons["lifecycle.split_two_mode_threshold"] = "lifecycle.split_two_mode is off"
    if lifecycle.split_release is not SplitRelease.shock:
        for name in ("split_release_shock", "split_release_limit"):
            how = lifecycle.split_release.name
            reasons[f"lifecycle.{name}"] = f"lifecycle.split_release is {how}"
    return reasons


def _users(name: str) -> tuple[str, ...]:
    return _USED_BY[name] or _ACTIONS.get(name.partition("_")[0], ())


def _idle(lifecycle: LifecycleConfig, users: Collection[str]) -> str:
    """Return why no action reads a field of these actions; empty if one does."""
    switches = [f"{action}_enabled" for action in users]
    if not switches or any(getattr(lifecycle, switch) for switch in switches):
        return ""
    verb = "is" if len(switches) == 1 else "are"
    return f"{' and '.join(f'lifecycle.{switch}' for switch in switches)} {verb} false"


def _unreachable_split(config: RunConfig) -> Iterator[str]:
    """Yield a line if no expert's share can exceed the threshold of a split."""
    lifecycle, largest = config.lifecycle, 1.0 / config.model.top_k
    by_share_alone = (
        lifecycle.split_share_ratio is None and lifecycle.split_two_mode is not TwoModeUse.add
    )
    watched = lifecycle.enabled and lifecycle.split_enabled and by_share_alone
    if watched and lifecycle.split_share_threshold >= largest:
        yield (
            f"lifecycle.split_share_threshold={lifecycle.split_share_threshold:g} has no effect: "
            f"with model.top_k={config.model.top_k} an expert's share is at most {largest:.3g}; "
            f"lower the threshold or set lifecycle.split_share_ratio"
        )
