"""The ``lifecycle`` group: when experts are born, split, merged, pruned and revived, and how."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum

from chronorun.config.fields import check_ranges, option
from chronorun.config.suggest import next_step
from chronorun.errors import UserError


class SpawnInit(Enum):
    """What a spawned expert starts as."""

    clone_and_perturb = "clone_and_perturb"
    mean_cluster = "mean_cluster"
    random = "random"


class TwoModeUse(Enum):
    """What a measured pair of token populations within one expert means for a split."""

    off = "off"
    add = "add"
    require = "require"


class SplitRelease(Enum):
    """When exclusive twins start to compete."""

    shock = "shock"
    fixed = "fixed"
    at_once = "at_once"


class MergeWeights(Enum):
    """How the weights of a merge are averaged."""

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
    """What an edit does to the other rows of the router."""

    patch = "patch"
    reinit = "reinit"


class CrossLayer(Enum):
    """Whether a spawn in one layer moves others up."""

    none = "none"
    depth_balance = "depth_balance"


@dataclass
class LifecycleConfig:
    """Every number of the lifecycle; a checkpoint here is an evaluation checkpoint."""

    enabled: bool = option(True, "watch the population and decide")
    dry_run: bool = option(False, "decide and log, change nothing")
    lifecycle_eval_interval: int = option(
        5, "from one cycle to the next; only a cycle acts", unit="checkpoints", at_least=1
    )
    lifecycle_warmup_steps: int | None = option(
        None,
        "no action before this step (null: max(200, 2 x optimizer.warmup_steps))",
        unit="steps",
        at_least=0,
    )
    cooling_period: int = option(
        3, "how long a new expert is left alone", unit="checkpoints", at_least=1
    )
    basin_window_size: int = option(
        50, "history kept of each expert", unit="checkpoints", at_least=2, limit=10_000_000
    )

    spawn_enabled: bool = option(True, "add experts to starving layers")
    spawn_patience: int = option(
        5, "a layer starves so long before a spawn", unit="checkpoints", at_least=1
    )
    spawn_cooldown_steps: int = option(
        500, "shortest time between two spawns, all layers", unit="steps", at_least=0
    )
    max_spawns_per_cycle: int = option(1, "spawns per cycle at most, all layers", at_least=0)
    max_experts_per_layer: int = option(
        16, "no spawn, revival or split beyond this population", unit="experts", at_least=2
    )
    spawn_init_strategy: SpawnInit = option(
        SpawnInit.clone_and_perturb, "what a spawned expert starts as"
    )
    spawn_entropy_threshold: float = option(
        0.95,
        "a router is undecided from this mean entropy per token on, over ln n",
        above=0.0,
        at_most=1.0,
    )
    spawn_entropy_drop: float = option(
        0.01,
        "a router whose entropy over ln n fell by more within spawn_patience is still deciding",
        at_least=0.0,
    )
    spawn_overflow_threshold: float = option(
        0.20,
        "top-k is saturated from this share of assignments beyond capacity on",
        above=0.0,
        at_most=1.0,
    )
    spawn_ramp_offset: float = option(
        -5.0, "logit offset that a new or revived expert's ramp to 0 starts at", at_most=0.0
    )
    revive_enabled: bool = option(True, "bring archived experts back instead of new ones")
    revive_overlap_threshold: float = option(
        0.8,
        "an archived expert comes back from this overlap with starved tokens on",
        above=0.0,
        at_most=1.0,
    )

    prune_enabled: bool = option(True, "remove dead experts")
    prune_patience: int = option(
        10, "an expert gets no token so long before a prune", unit="checkpoints", at_least=1
    )
    max_prunes_per_cycle: int = option(1, "prunes per cycle at most, all layers", at_least=0)
    min_experts_per_layer: int = option(
        2, "no prune or merge below this population (or model.top_k)", unit="experts", at_least=1
    )
    prune_lens_grace: int = option(
        5, "a lens attempt defers a prune this long at most", unit="checkpoints", at_least=0
    )

    split_enabled: bool = option(True, "split overloaded experts")
    split_share_threshold: float = option(
        0.4, "share of assignments above which an expert is overloaded", above=0.0, at_most=1.0
    )
    split_share_ratio: float | None = option(
        None, "overloaded above this multiple of the even share, too (null: off)", above=1.0
    )
    split_pair_ratio: float = option(
        1.2,
        "in a layer of two, overloaded only from this multiple of the even share on",
        at_least=1.0,
    )
    split_patience: int = option(
        5, "an expert is overloaded so long before a split", unit="checkpoints", at_least=1
    )
    max_splits_per_cycle: int = option(1, "splits per cycle at most, all layers", at_least=0)
    split_perturbation_scale: float = option(
        0.01, "noise on a clone, relative to its weights' RMS", at_least=0.0
    )
    split_cooldown_per_expert: int = option(
        1000, "shortest time before the same expert splits again", unit="steps", at_least=0
    )
    split_two_mode: TwoModeUse = option(
        TwoModeUse.off, "serving two token populations: not used, overloads too, or required"
    )
    split_two_mode_threshold: float = option(
        0.25, "separation x balance that counts as two populations", above=0.0
    )
    split_router_delta: float = option(
        0.05, "how far a release moves twins' router rows, relative to the row", at_least=0.0
    )
    split_release: SplitRelease = option(
        SplitRelease.shock, "twins compete once that shocks little, after cooling, or at once"
    )
    split_release_shock: float = option(
        0.002, "relative rise of the probe loss that a release may cause", above=0.0
    )
    split_release_limit: int = option(
        20, "twins are released after this long at the latest", unit="checkpoints", at_least=1
    )

    merge_enabled: bool = option(True, "merge converged experts")
    merge_similarity_threshold: float = option(
        0.95, "weight cosine above which two experts are alike", at_least=-1.0, at_most=1.0
    )
    merge_overlap_threshold: float = option(
        0.8, "basin overlap above which two experts are alike", at_least=0.0, at_most=1.0
    )
    merge_patience: int = option(
        8, "two experts are alike so long before a merge", unit="checkpoints", at_least=1
    )
    max_merges_per_cycle: int = option(1, "merges per cycle at most, all layers", at_least=0)
    merge_min_age_steps: int = option(
        1000, "age at which a child may merge with its parent", unit="steps", at_least=0
    )
    merge_weights: MergeWeights = option(MergeWeights.uniform, "how the two are averaged")
    merge_logit_offset: MergeOffset = option(
        MergeOffset.match,
        "logit offset of the survivor of a merge at once (where no token chooses both): found so "
        "that it keeps both shares, 0, or + ln 2",
    )
    similarity_cosine_weight: float = option(
        0.5, "coefficient of the weights' cosine in the logged similarity", at_least=0.0
    )
    similarity_overlap_weight: float = option(
        0.5, "coefficient of the basins' overlap in the logged similarity", at_least=0.0
    )

    reversal_cooldown_checkpoints: int = option(
        10, "shortest time between opposite edits of a layer", unit="checkpoints", at_least=0
    )
    rollback_enabled: bool = option(True, "undo edits that did harm")
    probation_checkpoints: int = option(
        5, "an edit is judged after", unit="checkpoints", at_least=1
    )
    harm_tolerance: float = option(
        0.005, "an edit did harm beyond this relative rise of the probe loss", at_least=0.0
    )
    max_patience_multiplier: int = option(
        8, "harm doubles that action's patience in the layer, up to this multiple", at_least=1
    )
    suspect_loss_tolerance: float = option(
        0.002,
        "an expert is suspect when leaving it out lowers the probe loss by more",
        unit="nats",
        at_least=0.0,
    )
    suspect_deviations: float = option(
        8.0,
        "an expert is suspect when its weights change by so much more than their median",
        unit="MAD",
        above=0.0,
    )
    suspect_token_harm: float = option(
        0.05,
        "an expert is suspect when it harms the tokens it serves by more",
        unit="nats",
        above=0.0,
    )
    suspect_patience: int = option(
        2, "an expert is suspect so long before the alert", unit="checkpoints", at_least=1
    )
    probe_batch_size: int = option(
        8, "size of the probe batch", unit="sequences", at_least=1, limit=1_048_576
    )

    child_moments: ChildMoments = option(
        ChildMoments.zero_m, "optimizer state of a new expert (zero_no_rewarm: the bad example)"
    )
    parent_moments: ParentMoments = option(
        ParentMoments.keep, "optimizer state of a split's parent"
    )
    merged_moments: MergedMoments = option(MergedMoments.survivor, "optimizer state after a merge")
    rewarm_steps: int = option(50, "ramp of a blank expert's updates", unit="steps", at_least=0)
    router_change: RouterChange = option(
        RouterChange.patch, "an edit keeps the router's other rows, or draws all anew"
    )
    cross_layer: CrossLayer = option(
        CrossLayer.none, "depth_balance: neighbours of a layer that grew spawn first"
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
    """Let code give a choice by its name, as the command line does."""
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
