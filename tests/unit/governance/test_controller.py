from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from chronorun.core.jsonl import read_jsonl
from chronorun.errors import UserError
from chronorun.governance import (
    ChronoLens,
    ControlDecision,
    Controller,
    LayerPriors,
    apply_priors_to_state,
    load_priors,
)
from chronorun.telemetry import LayerSnapshot, SystemSnapshot


def snapshot(step: int, *shares: list[float], alerts: tuple[str, ...] = ()) -> SystemSnapshot:
    layers = [LayerSnapshot.from_shares(i, np.array(s)) for i, s in enumerate(shares)]
    return SystemSnapshot(step, 0.0, 2.0, 2.1, layers, list(alerts), "r", "m")


EVEN = [0.25] * 4
SKEWED = [0.9, 0.1, 0.0, 0.0]


def test_update_steers_logs_and_returns_the_decisions(tmp_path: Path) -> None:
    controller = Controller(2, [4, 4], output_dir=tmp_path)
    controller.initialize("r")
    lenses = [ChronoLens(8, layer_id=i) for i in range(2)]
    note = "PRE_COLLAPSE: Layer 1: n_effective 1.38 of 4"
    for step in (100, 120, 140):
        decisions = controller.update(snapshot(step, EVEN, SKEWED, alerts=(note,)), lenses)
    assert lenses[0].s == 0.0
    assert lenses[1].s == controller.get_lens_scales(140)[1] > 0.1
    assert decisions[0].computed["abstain_reason"] == "no_pressure"
    assert decisions[0].notes == []
    assert decisions[1].notes == [note]
    records = list(read_jsonl(tmp_path / "r" / "control_decisions.jsonl"))
    assert [ControlDecision.from_dict(r) for r in records[-2:]] == decisions
    assert list(records[0])[:7] == [
        "run_id",
        "step",
        "layer_id",
        "observed",
        "computed",
        "actuator",
        "emergency",
    ]


def test_a_restored_controller_goes_on_exactly() -> None:
    stream = [snapshot(100 + i, EVEN if i % 3 else SKEWED) for i in range(9)]
    whole = Controller(1, [4])
    halves = Controller(1, [4])
    for shot in stream[:4]:
        whole.update(shot)
        halves.update(shot)
    resumed = Controller(1, [4])
    resumed.load_state_dict(msgspec.json.decode(msgspec.json.encode(halves.state_dict())))
    for shot in stream[4:]:
        assert whole.update(shot) == resumed.update(shot)


def test_the_population_follows_the_snapshot() -> None:
    controller = Controller(1, [4])
    controller.update(snapshot(1, [0.2] * 5))
    assert controller.get_state(0).n_experts == 5


def test_layers_and_populations_must_match() -> None:
    with pytest.raises(
        UserError,
        match=r"^controller: n_experts_per_layer has 1 entries, expected n_layers=2; "
        r"give one number per MoE layer$",
    ):
        Controller(2, [4])


def test_a_layer_the_controller_does_not_know_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^controller: layer_id=1 in the snapshot, expected < 1; "
        r"give n_layers as many layers as are observed$",
    ):
        Controller(1, [4]).update(snapshot(1, EVEN, EVEN))


def test_each_initialize_opens_the_file_of_its_run(tmp_path: Path) -> None:
    controller = Controller(1, [4], output_dir=tmp_path)
    for run_id in ("a", "b"):
        controller.initialize(run_id)
        controller.update(snapshot(1, EVEN))
    controller.close()
    controller.update(snapshot(2, EVEN))
    for run_id in ("a", "b"):
        records = list(read_jsonl(tmp_path / run_id / "control_decisions.jsonl"))
        assert [(r["run_id"], r["step"]) for r in records] == [(run_id, 1)]


def test_a_writer_that_was_given_stays_in_use() -> None:
    class Kept:
        def __init__(self) -> None:
            self.records: list[object] = []

        def write(self, record: object) -> None:
            self.records.append(record)

    kept = Kept()
    controller = Controller(1, [4], writer=kept)
    controller.initialize("r")
    controller.close()
    assert [d.to_dict() for d in controller.update(snapshot(1, EVEN))] == kept.records


def test_absent_and_null_values_of_priors_fall_back(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b'{"v":2,"p":{"3":{"ms":null,"sc":null,"f":1}}}')
    assert load_priors(path) == {3: LayerPriors(3)}


@pytest.mark.parametrize("compress", [True, False])
def test_priors_round_trip(tmp_path: Path, compress: bool) -> None:
    controller = Controller(2, [4, 4])
    for step in (100, 120):
        controller.update(snapshot(step, EVEN, SKEWED))
    path = tmp_path / "priors.json.gz"
    controller.save_priors(path, compress)
    first = path.read_bytes()
    controller.save_priors(path, compress)
    assert path.read_bytes() == first
    priors = load_priors(tmp_path)
    assert (priors[0].fragility, priors[1].fragility) == (0.5, 2.0)
    text = gzip.decompress(first) if compress else first
    plain = json.loads(text)
    assert plain["v"] == 2
    assert set(plain["p"]["0"]) == {"l", "f", "b", "sc", "at", "ih", "pm", "ms"}


def test_long_keys_are_accepted_and_change_the_state(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    entry = {"fragility": 0.7, "backoff_bias": 0.4, "preferred_mode": "lift_tail"}
    path.write_text(json.dumps({"v": 2, "p": {"0": entry}}), encoding="utf-8")
    controller = Controller(1, [4])
    controller.load_priors(path)
    state = controller.get_state(0)
    assert (state.harm_backoff, state.active_mode) == (0.4, "lift_tail")
    assert controller.priors[0].fragility == 0.7
    assert apply_priors_to_state(state, LayerPriors(0, backoff_bias=9.0)).harm_backoff == 1.0


def test_a_priors_file_of_v2_is_read_as_v2_means_it(tmp_path: Path) -> None:
    entry = {"l": 0, "f": 1.5, "b": 0.3, "ih": -0.1, "pm": 2, "ms": [0.9, 0.4, 1.0, 0.7]}
    path = tmp_path / "clock3.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"v": 2, "p": {"0": entry}}).encode()))
    scores = {"anti_dominance": 0.9, "entropy_max": 0.4, "lift_tail": 1.0}
    (prior,) = load_priors(path).values()
    assert prior == LayerPriors(0, 1.5, 0.7, None, 0.01, -0.1, "lift_tail", scores)
    controller = Controller(1, [4])
    controller.load_priors(path)
    state = controller.get_state(0)
    assert (state.harm_backoff, state.active_mode) == (0.7, "lift_tail")
    path.write_bytes(b'{"v":2,"p":{"0":{"l":0,"pm":3,"ms":[1.0,1.0,1.0,1.0]}}}')
    controller = Controller(1, [4])
    controller.load_priors(path)
    state = controller.get_state(0)
    # v2 leaves out a bias of 0; what abstains is no mode to steer by.
    assert (state.harm_backoff, state.active_mode) == (1.0, "anti_dominance")


TORN = bytearray(gzip.compress(b'{"p":{"0":{"f":1}}}' * 9, mtime=0))
TORN[12:16] = b"\xff" * 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\x1f\x8bxx",
        bytes(TORN),
        b'{"v":2}',
        b'{"p":{"x":{}}}',
        b'{"p":{"0":[]}}',
        b'{"p":{"0":{"sc":"x"}}}',
        b'{"p":{"0":{"ms":{"lift_tail":"x"}}}}',
        b'{"p":{"0":{"f":9}}}',
        b'{"p":{"0":{"ms":[1,1,1],"b":[1]}}}',
        b'{"p":{"0":{"ms":["x"],"pm":0}}}',
    ],
)
def test_a_file_that_holds_no_priors_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^priors: .* is not a priors file"):
        load_priors(path)
    with pytest.raises(UserError, match=r"^priors: .* does not exist, expected a run folder"):
        load_priors(tmp_path / "none")
