"""When and how experts are spawned, split, merged, pruned and revived (group ``lifecycle``)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from functools import partial

from chronorun.config.fields import check_ranges, option
from chronorun.config.suggest import next_step
from chronorun.errors import UserError

_BIRTHS = ("spawn", "revive")
"""A revival answers starvation as a spawn does, with the same patience, cooldown and ramp."""


_shape = partial(option, shapes_edits=True)
"""Declares a field that shapes edits."""


class SpawnInit(Enum):
    """Initial weights of a spawned expert."""

    clone_and_perturb = "clone_and_perturb"
    mean_cluster = "mean_cluster"
    random = "random"


class TwoModeUse(Enum):
    """Whether two token populations measured within one expert are a reason to split it."""

    off = "off"
    add = "add"
    require = "require"


class SplitRelease(Enum):
    """When twins, of which each token may choose one, start to compete."""

    shock = "shock"
    fixed = "fixed"
    at_once = "at_once"


class MergeWeights(Enum):
    """How the weights of two merged experts are averaged."""

    uniform = "uniform"
    share = "share"


class MergeOffset(Enum):
    """Logit offset of a merged expert."""

    match = "match"
    zero = "zero"
    ln2 = "ln2"


class ChildMoments(Enum):
    """Optimizer state of a new expert."""

    zero_m = "zero_m"
    zero = "zero"
    inherit = "inherit"
    scale = "scale"
    zero_no_rewarm = "zero_no_rewarm"


class ParentMoments(Enum):
    """Optimizer state of the parent of a split."""

    keep = "keep"
    zero = "zero"


class MergedMoments(Enum):
    """Optimizer state of the survivor of a merge."""

    survivor = "survivor"
    share_weighted = "share_weighted"


class RouterChange(Enum):
    """What an edit does to the router's other rows."""

    patch = "patch"
    reinit = "reinit"


class CrossLayer(Enum):
    """Whether a spawn in one layer gives its neighbours priority."""

    none = "none"
    depth_balance = "depth_balance"


@dataclass
class LifecycleConfig:
    """Edits of the population; an evaluation comes every training.eval_interval steps."""

    enabled: bool = option(True, "watch the experts and edit the population", fixed_in_replay=True)
    dry_run: bool = option(False, "decide and log, but change nothing", fixed_in_replay=True)
    lifecycle_eval_interval: int = option(
        5, "evaluations per cycle; only a cycle edits", unit="evaluations", at_least=1
    )
    lifecycle_warmup_steps: int | None = option(
        None,
        "first step at which an edit is allowed (null: max(200, 2 x optimizer.warmup_steps))",
        unit="steps",
        at_least=0,
    )
    cooling_period: int = _shape(
        3, "evaluations for which a new expert is left alone", unit="evaluations", at_least=1
    )
    basin_window_size: int = _shape(
        50,
        "evaluations of history kept per expert",
        unit="evaluations",
        at_least=2,
        limit=10_000_000,
    )

    spawn_enabled: bool = option(True, "add experts to starving layers")
    spawn_patience: int = option(
        5, "evaluations a layer must starve before a spawn", unit="evaluations", at_least=1
    )
    spawn_cooldown_steps: int = option(
        500, "minimum time between two spawns, over all layers", unit="steps", at_least=0
    )
    max_spawns_per_cycle: int = option(
        1, "maximum spawns per cycle, all layers", at_least=0, used_by=_BIRTHS
    )
    max_experts_per_layer: int = option(
        16,
        "largest layer: no spawn, revival or split exceeds it",
        unit="experts",
        at_least=2,
        used_by=(*_BIRTHS, "split"),
    )
    spawn_init_strategy: SpawnInit = _shape(
        SpawnInit.clone_and_perturb, "initial weights of a spawned expert", used_by=("spawn",)
    )
    spawn_entropy_threshold: float = option(
        0.95,
        "per-token entropy / ln n at or above which a router counts as undecided",
        above=0.0,
        at_most=1.0,
    )
    spawn_entropy_drop: float = option(
        0.01,
        "fall of entropy / ln n in spawn_patience above which a router is still deciding",
        at_least=0.0,
    )
    spawn_overflow_threshold: float = option(
        0.20,
        "share of assignments over capacity at or above which top-k is saturated",
        above=0.0,
        at_most=1.0,
    )
    spawn_ramp_offset: float = _shape(
        -5.0, "logit offset of a new or revived expert, from which it ramps up to 0", at_most=0.0
    )
    revive_enabled: bool = option(
        True, "revive an archived expert that fits instead of spawning a new one"
    )
    revive_overlap_threshold: float = option(
        0.8,
        "overlap with the starved tokens at or above which an archived expert is revived",
        above=0.0,
        at_most=1.0,
    )

    prune_enabled: bool = option(True, "remove dead experts")
    prune_patience: int = option(
        10, "evaluations without a token before a prune", unit="evaluations", at_least=1
    )
    max_prunes_per_cycle: int = option(
        1, "maximum prunes per cycle, all layers", at_least=0, used_by=("prune",)
    )
    min_experts_per_layer: int = option(
        2,
        "no prune or merge below this size (or model.top_k)",
        unit="experts",
        at_least=1,
        used_by=("prune", "merge"),
    )
    prune_lens_grace: int = option(
        5, "evaluations a lens attempt may defer a prune", unit="evaluations", at_least=0
    )

    split_enabled: bool = option(True, "split overloaded experts")
    split_share_threshold: float = option(
        0.4, "share of assignments above which an expert is overloaded", above=0.0, at_most=1.0
    )
    split_share_ratio: float | None = option(
        None,
        "multiple of the even share above which an expert is also overloaded (null: off)",
        above=1.0,
    )
    split_pair_ratio: float = option(
        1.2,
        "in a layer of two, multiple of the even share an expert must reach to be overloaded",
        at_least=1.0,
    )
    split_patience: int = option(
        5, "evaluations an expert must be overloaded before a split", unit="evaluations", at_least=1
    )
    max_splits_per_cycle: int = option(
        1, "maximum splits per cycle, all layers", at_least=0, used_by=("split",)
    )
    split_perturbation_scale: float = _shape(
        0.01, "noise on a clone, relative to the RMS of its weights", at_least=0.0
    )
    split_cooldown_per_expert: int = option(
        1000, "minimum time before the same expert splits again", unit="steps", at_least=0
    )
    split_two_mode: TwoModeUse = option(
        TwoModeUse.off,
        "two token populations in one expert: ignored, another reason to split, or required",
    )
    split_two_mode_threshold: float = option(
        0.25, "separation x balance at or above which there are two populations", above=0.0
    )
    split_router_delta: float = _shape(
        0.05, "change of the twins' router rows at a release, relative to the row", at_least=0.0
    )
    split_release: SplitRelease = _shape(
        SplitRelease.shock,
        "when twins start to compete: once the shock is small, after cooling_period, or at once",
    )
    split_release_shock: float = _shape(
        0.002, "largest relative rise of the probe loss that a release may cause", above=0.0
    )
    split_release_limit: int = _shape(
        20, "evaluations before twins are released anyway", unit="evaluations", at_least=1
    )

    merge_enabled: bool = option(True, "merge experts that have become alike")
    merge_similarity_threshold: float = option(
        0.95, "weight cosine above which two experts are alike", at_least=-1.0, at_most=1.0
    )
    merge_overlap_threshold: float = option(
        0.8, "basin overlap above which two experts are alike", at_least=0.0, at_most=1.0
    )
    merge_patience: int = option(
        8, "evaluations two experts must be alike before a merge", unit="evaluations", at_least=1
    )
    max_merges_per_cycle: int = option(
        1, "maximum merges per cycle, all layers", at_least=0, used_by=("merge",)
    )
    merge_min_age_steps: int = option(
        1000, "age at which a child may first merge with its parent", unit="steps", at_least=0
    )
    merge_weights: MergeWeights = _shape(
        MergeWeights.uniform,
        "average of the two experts' weights: uniform, or weighted by their shares",
    )
    merge_logit_offset: MergeOffset = _shape(
        MergeOffset.match,
        "logit offset of a merged expert (at once if no token chose both): keeps both "
        "shares, 0 or ln 2",
    )
    similarity_cosine_weight: float = option(
        0.5, "coefficient of the weights' cosine in the logged similarity", at_least=0.0
    )
    similarity_overlap_weight: float = option(
        0.5, "coefficient of the basin overlap in the logged similarity", at_least=0.0
    )

    reversal_cooldown_checkpoints: int = option(
        10, "evaluations between opposite edits of a layer", unit="evaluations", at_least=0
    )
    rollback_enabled: bool = option(True, "undo edits that did harm")
    probation_checkpoints: int = option(
        5, "evaluations from an edit to its verdict", unit="evaluations", at_least=1
    )
    harm_tolerance: float = option(
        0.005, "relative rise of the probe loss above which an edit did harm", at_least=0.0
    )
    max_patience_multiplier: int = option(
        8, "each harm doubles that action's patience in the layer, up to this multiple", at_least=1
    )
    suspect_loss_tolerance: float = option(
        0.002,
        "probe loss saved by leaving an expert out, above which it is suspect",
        unit="nats",
        at_least=0.0,
    )
    suspect_deviations: float = option(
        8.0,
        "change of an expert's weights above the median change, above which it is suspect",
        unit="MAD",
        above=0.0,
    )
    suspect_token_harm: float = option(
        0.05,
        "harm to the tokens that an expert serves, above which it is suspect",
        unit="nats",
        above=0.0,
    )
    suspect_patience: int = option(
        2, "evaluations an expert must be suspect before the alert", unit="evaluations", at_least=1
    )
    probe_batch_size: int = _shape(
        8, "size of the probe batch", unit="sequences", at_least=1, limit=1_048_576
    )

    child_moments: ChildMoments = _shape(
        ChildMoments.zero_m,
        "optimizer state of a new expert (zero_no_rewarm: a bad choice, for comparison)",
        used_by=(*_BIRTHS, "split"),
    )
    parent_moments: ParentMoments = _shape(
        ParentMoments.keep, "optimizer state of the parent of a split", used_by=("split",)
    )
    merged_moments: MergedMoments = _shape(
        MergedMoments.survivor, "optimizer state of a merged expert", used_by=("merge",)
    )
    rewarm_steps: int = _shape(
        50,
        "ramp of the updates of an expert with blank optimizer state",
        unit="steps",
        at_least=0,
        used_by=(*_BIRTHS, "split"),
    )
    router_change: RouterChange = _shape(
        RouterChange.patch,
        "what an edit does to the router's other rows: keep them, or draw all anew",
    )
    cross_layer: CrossLayer = option(
        CrossLayer.none,
        "depth_balance: the neighbours of a layer that grew spawn first",
        used_by=_BIRTHS,
    )

    def __post_init__(self) -> None:
        _take_names(self)
        check_ranges(self, "lifecycle")
        if self.max_experts_per_layer < self.min_experts_per_layer:
            raise UserError(
                f"configuration: lifecycle.max_experts_per_layer={self.max_experts_per_layer}, "
                f"expected >= lifecycle.min_experts_per_layer={self.min_experts_per_layer}; "
                f"change one of the two"
            )
        if self.similarity_cosine_weight + self.similarity_overlap_weight == 0.0:
            raise UserError(
                "configuration: lifecycle.similarity_cosine_weight=0 and "
                "lifecycle.similarity_overlap_weight=0, expected one above 0; raise one of the two"
            )

    def warmup(self, optimizer_warmup_steps: int) -> int:
        """Return the first step at which an action is allowed."""
        if self.lifecycle_warmup_steps is not None:
            return self.lifecycle_warmup_steps
        return max(200, 2 * optimizer_warmup_steps)


def _take_names(config: LifecycleConfig) -> None:
    """Accept the names of choices from code, as from the command line."""
    for field in dataclasses.fields(config):
        kind, value = type(field.default), getattr(config, field.name)
        if not issubclass(kind, Enum) or isinstance(value, kind):
            continue
        names = [choice.name for choice in kind]
        if value not in names:
            raise UserError(
                f"configuration: lifecycle.{field.name}={value}, expected one of "
                f"{', '.join(names)}; {next_step(str(value), names, 'choose one of them')}"
            )
        setattr(config, field.name, kind[value])
