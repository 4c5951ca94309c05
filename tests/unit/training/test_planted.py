"""What is planted by hand: done once, through the surgeon, before the first forward of its step."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import torch
from torch import Tensor

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.model import ModelConfig
from chronorun.config.run import RunConfig
from chronorun.config.scenario import ScenarioConfig, ScenarioKind
from chronorun.config.training import TrainingConfig
from chronorun.data import TokenizedCorpus
from chronorun.errors import UserError
from chronorun.lifecycle.edit.moments import read_moments
from chronorun.lifecycle.experts.states import ExpertState
from chronorun.model import GPT, MoELayer, read_expert
from chronorun.training.context import RunContext
from chronorun.training.heartbeat import Heartbeat
from chronorun.training.logs import RunLogs
from chronorun.training.scenarios import Scenario, build_scenario

VOCAB, START, D = 32, 20, 16
NO_CORPUS = cast(TokenizedCorpus, None)


def run_config(kind: str, *, lifecycle: bool = False, **options: Any) -> RunConfig:
    model = ModelConfig(n_layers=2, d_model=D, n_heads=2, context_length=16, num_experts=5)
    scenario = ScenarioConfig(kind=ScenarioKind(kind), **({"start_step": START} | options))
    return RunConfig(
        run_id="r",
        model=model,
        training=TrainingConfig(eval_interval=10),
        lifecycle=LifecycleConfig(enabled=lifecycle),
        scenario=scenario,
    )


def batch(seed: int = 3) -> Tensor:
    return torch.randint(VOCAB, (8, 17), generator=torch.Generator().manual_seed(seed))


class Stage:
    """A small run without a trainer: model, optimizer, heartbeat, scenario."""

    def __init__(self, folder: Path, kind: str, *, steps: int = 3, **options: Any) -> None:
        folder.mkdir()
        self.run = run = run_config(kind, **options)
        generator = torch.Generator().manual_seed(0)
        self.model = GPT(run.model, run.router, VOCAB, generator=generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.logs = RunLogs(folder)
        nothing: Any = None
        corpus: Any = SimpleNamespace(vocab_size=VOCAB)
        context = RunContext(run, folder, torch.device("cpu"), corpus, self.logs, nothing)
        self.heartbeat = Heartbeat(context, self.model, self.optimizer, self.probe)
        self.scenario = self.build()
        for seed in range(steps):
            self.step(seed)

    def build(self) -> Scenario:
        return build_scenario(self.run, self.model, NO_CORPUS, self.heartbeat, self.optimizer)

    def probe(self, step: int) -> float:
        self.model.eval()
        with torch.no_grad():
            loss = self.loss(99)
        self.model.train()
        return float(loss)

    def loss(self, seed: int) -> Tensor:
        tokens_BS = batch(seed)
        loss = self.model(tokens_BS[:, :-1], tokens_BS[:, 1:]).loss
        assert loss is not None
        return loss

    def step(self, seed: int) -> None:
        assert self.heartbeat.recorder is not None
        self.heartbeat.recorder.begin_step(batch(seed)[:, :-1])
        self.loss(seed).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.heartbeat.recorder.end_step(seed + 1, None)

    @property
    def layer(self) -> MoELayer:
        return self.model.moe_layers()[0]

    def everything(self, slot: int) -> dict[str, Tensor]:
        """Return all that the expert in a slot is, moments included."""
        moments = read_moments(self.layer, self.optimizer, slot)
        flat = {f"{n}|{e}": v for n, entries in moments.items() for e, v in entries.items()}
        assert len(flat) == 6
        return read_expert(self.layer, slot) | flat


@pytest.fixture(params=[False, True], ids=["lifecycle_off", "lifecycle_on"])
def lifecycle(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize(("expert", "partner"), [(1, 2), (4, 0)])
def test_redundancy_makes_the_next_expert_a_bit_copy(
    tmp_path: Path, lifecycle: bool, expert: int, partner: int
) -> None:
    stage = Stage(tmp_path / "a", "planted_redundancy", lifecycle=lifecycle, expert=expert)
    stage.layer.router.selection_bias.copy_(torch.arange(5.0))
    stage.layer.router.logit_offset.copy_(torch.arange(5.0) / 8)
    before = [stage.everything(slot) for slot in range(5)]
    assert stage.scenario.before_step(START - 1) == []
    assert all(same(stage.everything(slot), before[slot]) for slot in range(5))

    record, *rest = stage.scenario.before_step(START)
    felt = record.pop("receipt")
    assert rest == []
    assert record == {
        "step": START,
        "scenario": "planted_redundancy",
        "event": "planted",
        "layers": [0],
        "expert_id": f"L0_E{expert}",
        "partner_id": f"L0_E{partner}",
    }
    assert felt["probe_loss_before"] != felt["probe_loss_after"]
    before[partner] = before[expert]
    assert all(same(stage.everything(slot), before[slot]) for slot in range(5))
    assert stage.scenario.before_step(START) == stage.scenario.before_step(START + 10) == []


def tokens_served(stage: Stage, pair: tuple[int, int]) -> int:
    seen: list[Tensor] = []
    stage.layer.spy = lambda layer_id, routing, y_TD: seen.append(routing.expert_index_KT)
    stage.probe(START)
    stage.layer.spy = None
    (index_KT,) = seen
    return int(((index_KT == pair[0]) | (index_KT == pair[1])).any(dim=0).sum())


def test_two_mode_merges_the_pair_that_serves_most_tokens(tmp_path: Path, lifecycle: bool) -> None:
    stage = Stage(tmp_path / "a", "planted_two_mode", lifecycle=lifecycle)
    before = [stage.everything(slot) for slot in range(5)]
    pairs = list(itertools.combinations(range(5), 2))
    kept, partner = max(pairs, key=lambda pair: tokens_served(stage, pair))
    served = tokens_served(stage, (kept, partner))

    (record,) = stage.scenario.before_step(START)
    assert (record["expert_id"], record["partner_id"]) == (f"L0_E{kept}", f"L0_E{partner}")
    assert stage.layer.num_experts == 4
    left = [slot for slot in range(5) if slot != partner]
    after = dict(zip(left, (stage.everything(slot) for slot in range(4)), strict=True))
    assert all(same(after[slot], before[slot]) for slot in left if slot != kept)
    mean_D = (before[kept]["router.weight"] + before[partner]["router.weight"]) / 2
    assert torch.allclose(after[kept]["router.weight"], mean_D)
    assert float(after[kept]["router.logit_offset"]) == pytest.approx(record["logit_offset"])
    assert stage.scenario.before_step(START + 10) == []

    # The tokens that chose either choose it now, as nearly as an offset can tell them apart.
    slot = left.index(kept)
    assert abs(tokens_served(stage, (slot, slot)) - served) <= 2
    assert record["receipt"]["probe_share"][f"L0_E{partner}"][1] is None
    stage.step(7)


def test_two_mode_leaves_the_absorbed_expert_where_a_lifecycle_looks_for_it(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path / "a", "planted_two_mode", lifecycle=True)
    lifecycle = stage.heartbeat.lifecycle
    assert lifecycle is not None
    before = [read_expert(stage.layer, slot) for slot in range(5)]
    (record,) = stage.scenario.before_step(START)
    partner_id = record["partner_id"]
    gone = lifecycle.registry[partner_id]
    assert (gone.state, gone.merged_into, gone.died_step) == (
        ExpertState.archived,
        record["expert_id"],
        START,
    )
    kept = lifecycle.population.archive.get(partner_id)
    assert same(kept.saved.values, before[int(partner_id[-1])])
    assert kept.centroid_D is not None
    assert lifecycle.tap.n_experts == [4, 5]
    assert lifecycle.registry.slots(0) == [f"L0_E{i}" for i in range(5) if f"L0_E{i}" != partner_id]


@pytest.mark.parametrize("kind", ["planted_redundancy", "planted_two_mode"])
def test_a_plant_does_the_same_with_and_without_a_lifecycle(tmp_path: Path, kind: str) -> None:
    stages = [Stage(tmp_path / str(on), kind, lifecycle=on, layer=-1) for on in (False, True)]
    records = [stage.scenario.before_step(START) for stage in stages]
    assert records[0] == records[1]
    assert [record["layers"] for record in records[0]] == [[0], [1]]
    for stage in stages:
        stage.step(5)
    states = [stage.model.state_dict() for stage in stages]
    assert same(states[0], states[1])


@pytest.mark.parametrize("kind", ["planted_redundancy", "planted_two_mode"])
def test_what_is_planted_is_not_planted_again_by_a_resumed_run(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path / "a", kind)
    early = stage.scenario.state_dict()
    assert stage.scenario.before_step(START)
    late = msgspec.json.decode(msgspec.json.encode(stage.scenario.state_dict()))
    again = stage.build()
    again.load_state_dict(late)
    assert again.state_dict() == stage.scenario.state_dict()
    assert again.before_step(START + 1) == []
    stage.scenario.load_state_dict(early)
    assert stage.scenario.state_dict() == {"in_force": False, "planted": None}


@pytest.mark.parametrize("kind", ["planted_redundancy", "planted_two_mode"])
def test_a_plant_draws_no_global_random_number(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path / "a", kind)
    before = torch.get_rng_state()
    stage.scenario.before_step(START)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["planted_redundancy", "planted_two_mode"])
def test_a_plant_whose_expert_is_gone_is_skipped_and_said(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path / "a", kind, lifecycle=True)
    lifecycle = stage.heartbeat.lifecycle
    assert lifecycle is not None
    for slot in range(4):
        lifecycle.registry.transition(f"L0_E{slot}", ExpertState.dormant, 5, "test")
    before = [stage.everything(slot) for slot in range(5)]
    (record,) = stage.scenario.before_step(START)
    assert record["event"] == "skipped"
    assert record["reason"] == "an expert of the pair is gone, dormant, a twin or on probation"
    assert all(same(stage.everything(slot), before[slot]) for slot in range(5))


@pytest.mark.parametrize(
    ("kind", "options", "n_experts", "message"),
    [
        (
            "planted_two_mode",
            {"start_step": 25},
            5,
            "scenario: scenario.start_step=25, expected a multiple of training.eval_interval=10 "
            "for planted_two_mode, where a telemetry window begins; choose 20 or 30",
        ),
        (
            "planted_two_mode",
            {},
            2,
            "scenario: model.num_experts=2, expected >= 3 for planted_two_mode; add experts",
        ),
        (
            "planted_redundancy",
            {},
            1,
            "scenario: model.num_experts=1, expected >= 2 for planted_redundancy; add experts",
        ),
        (
            "planted_redundancy",
            {"expert": 5},
            5,
            "scenario: scenario.expert=5, expected < 5; choose a live expert",
        ),
    ],
)
def test_a_plant_that_does_not_fit_is_refused(
    kind: str, options: dict[str, Any], n_experts: int, message: str
) -> None:
    run = run_config(kind, **options)
    run.model.num_experts, run.model.top_k = n_experts, min(2, n_experts)
    model = GPT(run.model, run.router, VOCAB)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build_scenario(run, model, NO_CORPUS)
