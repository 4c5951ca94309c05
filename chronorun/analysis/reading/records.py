"""One line of each log as readers see it: a field that is missing has a default.

The rooms that write the logs have their own records; a reader takes any version of them, and v2's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field, json

from chronorun.lifecycle.record.telling import BIRTHS, natural

Step = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Index = Annotated[int, Meta(ge=0, le=10**6)]
Fate = Literal["done", "unfinished", "would"]
"""Carried out, decided and not carried out when the run ended, or only proposed."""
NOTHING, NO_NAMES = Raw(b"{}"), Raw(b"[]")
SCHEMA_VERSION = 1


class Decision(Struct, gc=False):
    """One line of ``lifecycle_decisions.jsonl``; the published fields come first.

    ``integrated_step`` is None where the shapes have not changed, and unset in a record of the
    published fields alone, which tells of what was done.
    """

    step: Step | None = None
    run_id: str = ""
    action: str = ""
    layer_id: Index | None = None
    expert_id: str = ""
    parent_id: str | None = None
    reason: str = ""
    metrics_at_decision: Raw = NOTHING
    config_snapshot: Raw = NOTHING
    schema_version: Step = SCHEMA_VERSION
    seq: Step | None = None
    integrated_step: Step | UnsetType | None = UNSET
    partner_id: str | None = None
    undoes: Step | None = None
    experts_before: Raw = NO_NAMES
    experts_after: list[str] = []
    receipt: Raw = NOTHING
    dry_run: bool = False

    @property
    def at(self) -> int:
        """Return when the shapes changed, as far as it is known."""
        return self.integrated_step if isinstance(self.integrated_step, int) else self.step or 0

    @property
    def is_unfinished(self) -> bool:
        """Return whether the run ended before the decision was carried out."""
        return self.integrated_step is None and not self.dry_run

    @property
    def fate(self) -> Fate:
        """Return what became of the decision."""
        if self.dry_run:
            return "would"
        return "unfinished" if self.integrated_step is None else "done"

    def before(self) -> list[str]:
        """Return the experts before the edit; decoded when asked, which is seldom."""
        try:
            return json.decode(self.experts_before, type=list[str])
        except (ValueError, RecursionError):
            return []

    def came_and_went(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the experts that the edit brought into the population, and those it took out.

        Populations before and after are compared for a rollback only: another expert may have
        faded out between a birth's decision and its integration.
        """
        if self.action in BIRTHS:
            return (self.expert_id,), ()
        if self.action == "PRUNE":
            return (), (self.expert_id,)
        if self.action == "MERGE" and self.partner_id is not None:
            return (), (self.partner_id,)
        if self.action == "ROLLBACK" and (before := set(self.before())) and self.experts_after:
            after = set(self.experts_after)
            came, went = (sorted(n, key=natural) for n in (after - before, before - after))
            return tuple(came), tuple(went)
        return (), ()


class Judgement(Struct):
    """The probe's judgement of an edit at the end of its probation, in nats."""

    seq: Step | None = None
    realised: float | None = field(default=None, name="realised_benefit")
    harmful: bool = False


class Judged(Struct):
    """The judgements of one line of ``lifecycle_evaluations.jsonl``."""

    judgements: list[Judgement] = []


class Status(Struct):
    """What became of a candidate."""

    status: str = ""


class Refused(Struct):
    """The candidates of one line of ``lifecycle_evaluations.jsonl``, by status."""

    candidates: list[Status] = []


class Candidate(Struct):
    """One proposal and what became of it."""

    action: str = ""
    expert_id: str = ""
    parent_id: str | None = None
    partner_id: str | None = None
    held: Step = 0
    status: str = ""
    why: str = ""
    seq: Step | None = None


class Counters(Struct):
    """How many checkpoints in a row each condition has held."""

    starvation: Step = 0
    dormancy: dict[str, Step] = {}
    lens_deferrals: dict[str, Step] = {}
    overload: dict[str, Step] = {}
    convergence: dict[str, Step] = {}
    suspicion: dict[str, Step] = {}


class ExpertRow(Struct):
    """One expert's signals."""

    expert_id: str = ""
    state: str = ""
    share: float = 0.0
    born_step: Step | None = None
    parent_id: str | None = None
    twin_of: str | None = None
    ramping: bool = False
    two_mode_score: float | None = None
    leave_one_out_gain: float | None = None
    token_harm: float | None = None
    token_harm_error: float | None = None
    weight_deviation: float | None = None


class PairRow(Struct):
    """Weight cosine and basin overlap of two experts."""

    first: str = ""
    second: str = ""
    cosine: float = 0.0
    overlap: float = 0.0


class Signals(Struct):
    """One layer's signals."""

    dispatched: Step = 0
    experts: list[ExpertRow] = []
    pairs: list[PairRow] = []


class Evaluation(Struct):
    """One line of ``lifecycle_evaluations.jsonl``, as far as one expert's story needs it."""

    step: Step = 0
    layer_id: Index | None = None
    cycle: bool = False
    candidates: list[Candidate] = []
    counters: Counters = field(default_factory=Counters)
    patience_multipliers: dict[str, Step] = {}
    signals: Signals = field(default_factory=Signals)


class Transition(Struct):
    """One line of ``expert_transitions.jsonl``: a change of state, or a release of twins."""

    step: Step = 0
    layer_id: Index | None = None
    expert_id: str = ""
    before: str | None = field(default=None, name="from")
    after: str = field(default="", name="to")
    reason: str = ""
    event: str = ""
    parent_id: str | None = None
    receipt: Raw = NOTHING

    @property
    def is_release(self) -> bool:
        """Return whether the twins ``expert_id`` and ``parent_id`` were let compete."""
        return self.event == "released"


class LayerShares(Struct):
    """One layer of a snapshot; v2 does not say ``num_experts``."""

    layer_id: Index | None = None
    num_experts: Step = 0
    utilization_shares: list[float | None] = []
    expert_ids: list[str] | None = None
    dead_expert_count: Step = 0

    @property
    def size(self) -> int:
        """Return how many experts the layer has."""
        return self.num_experts or len(self.utilization_shares)


class Snapshot(Struct):
    """One line of ``snapshots.jsonl``."""

    step: Step | None = None
    run_id: str = ""
    train_loss: float | None = None
    val_loss: float | None = None
    layers: list[LayerShares] = []


class Losses(Struct):
    """The losses of one line of ``metrics.jsonl``."""

    step: Step | None = None
    train_loss: float | None = field(default=None, name="train/loss")
    val_loss: float | None = field(default=None, name="val/loss")


class Computed(Struct):
    """What a controller computed for a layer, as far as it is drawn."""

    debt: float | None = None
    pressure: float | None = None


class Actuator(Struct):
    """What a controller set for a layer, as far as it is drawn."""

    lens_scale: float | None = None


class Control(Struct):
    """One line of ``control_decisions.jsonl``."""

    step: Step | None = None
    layer_id: Index | None = None
    computed: Computed = field(default_factory=Computed)
    actuator: Actuator = field(default_factory=Actuator)


class ScenarioEvent(Struct):
    """One line of ``scenario_events.jsonl``; ``top_k`` only where it changes."""

    step: Step | None = None
    scenario: str = ""
    event: str = ""
    layers: list[Index] = []
    top_k: Step | None = None
