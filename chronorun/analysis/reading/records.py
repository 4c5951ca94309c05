"""The fields of the logs that ``inspect`` reads: those that are missing have a default."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field, json

Step = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Index = Annotated[int, Meta(ge=0, le=10**6)]
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
        """Say whether the run ended before the decision was carried out."""
        return self.integrated_step is None and not self.dry_run

    def before(self) -> list[str]:
        """Return the experts before the edit; decoded when asked, which is seldom."""
        try:
            return json.decode(self.experts_before, type=list[str])
        except (ValueError, RecursionError):
            return []


class Judgement(Struct):
    """What the probe said of an edit at the end of its probation, in nats."""

    seq: Step | None = None
    realised_benefit: float | None = None
    harmful: bool = False


class Judged(Struct):
    """The judgements of one line of ``lifecycle_evaluations.jsonl``."""

    judgements: list[Judgement] = []


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
        """Say whether the twins ``expert_id`` and ``parent_id`` were let compete."""
        return self.event == "released"


class LayerShares(Struct):
    """One layer of a snapshot; v2 does not say ``num_experts``."""

    layer_id: Index | None = None
    num_experts: Step = 0
    utilization_shares: list[float | None] = []


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
