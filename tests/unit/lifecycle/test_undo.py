"""Edits judged against a model without them, and undone bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from unit.lifecycle.small_run import SmallRun, same

from chronorun.config.lifecycle import LifecycleConfig, ParentMoments
from chronorun.governance import ChronoLens
from chronorun.lifecycle.decide.actions import Action
from chronorun.lifecycle.edit.trial import trial
from chronorun.lifecycle.edit.undo import judge_by_probe, leave_one_out, loss_without
from chronorun.lifecycle.edit.waiting import pack_undo, unpack_undo
from chronorun.lifecycle.record.decisions import LifecycleDecision
from chronorun.lifecycle.record.ledger import Undo
from chronorun.model import Twin, read_expert
from chronorun.model.population import LOGIT_OFFSET, ROUTER_ROWS, rebuild
from chronorun.training.heartbeat import attach_lens

STEP = 3
EDITS: dict[str, Callable[[SmallRun], LifecycleDecision]] = {
    "split": lambda run: run.split("L0_E1"),
    "spawn": lambda run: run.spawn(0, ["L0_E0"], ramp=2),
    "prune": lambda run: run.prune("L0_E3"),
    "merge": lambda run: run.merge("L0_E1", "L0_E2"),
    "revive": lambda run: _revived(run),
    "released": lambda run: _released(run),
}


def _revived(run: SmallRun) -> LifecycleDecision:
    run.prune("L0_E3")
    return run.birth(Action.REVIVE, 0, "L0_E3", ramp=2)


def _released(run: SmallRun) -> LifecycleDecision:
    done = run.split("L0_E1")
    run.train(2)
    run.population.release_twins(run.step, {done.expert_id: 99})
    return done


def trained(**options: object) -> SmallRun:
    run = SmallRun(**options)  # type: ignore[arg-type]
    run.train(8)
    return run


def hand_made(run: SmallRun, undo: Undo, *, restored: bool) -> float:
    """Return the probe loss of a copy of the model from which the edit was taken by hand."""
    other = copy.deepcopy(SimpleNamespace(model=run.model)).model
    layer = other.moe_layers()[0]
    for each in other.moe_layers():
        each.observer = each.gate_observer = None
    layer.set_twins([])
    names = run.registry.slots(0)
    rebuild(
        layer,
        [slot for slot, name in enumerate(names) if name not in undo.born],
        [undo.saved[name].values for name in undo.gone],
    )
    names = [name for name in names if name not in undo.born] + list(undo.gone)
    with torch.no_grad():
        if undo.released_by is not None and not restored:
            # The row that the twins shared, had they never parted: midway between the two.
            (parent,), (child,) = undo.saved, undo.born
            pair = [run.everything(name) for name in (parent, child)]
            for key, less in ((ROUTER_ROWS, 0.0), (LOGIT_OFFSET, undo.released_by)):
                middle = (pair[0][key] + pair[1][key]) / 2 - less
                layer.slot_tensors()[key].data[names.index(parent)] = middle
        for name, saved in undo.saved.items():
            if name in undo.gone:
                continue
            part = saved.values.keys() if restored else (ROUTER_ROWS, LOGIT_OFFSET)
            if restored or undo.action is Action.MERGE:
                for key in part:
                    layer.slot_tensors()[key].data[names.index(name)] = saved.values[key]
    mine, run.model = run.model, other
    try:
        return run.probe(STEP)
    finally:
        run.model = mine


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("kind", sorted(EDITS))
def test_the_undone_loss_is_that_of_a_model_without_the_edit(kind: str, restored: bool) -> None:
    run = trained()
    done = EDITS[kind](run)
    run.train(5)
    undo, before = run.ledger.undo[done.seq], run.all_live()
    parameters = dict(run.model.named_parameters())
    pairs = [] if run.layers[0].twins is None else run.layers[0].twins.pairs
    got = loss_without(run.surgeon, run.probe, STEP, undo, restored=restored)
    assert got == pytest.approx(hand_made(run, undo, restored=restored), rel=1e-6)
    assert got != run.probe(STEP)
    # The very same objects are back: the optimizer never noticed.
    assert all(p is parameters[n] for n, p in run.model.named_parameters())
    after = run.all_live()
    assert all(same(before[name], after[name]) for name in before)
    assert len(pairs) == len([] if run.layers[0].twins is None else run.layers[0].twins.pairs)
    assert run.layers[0].num_groups == len(run.registry.groups(0))
    run.train(2)


@pytest.mark.parametrize("parent_moments", ParentMoments)
@pytest.mark.parametrize("kind", sorted(EDITS))
def test_a_rollback_restores_what_was_touched_and_nothing_else(
    kind: str, parent_moments: ParentMoments
) -> None:
    run = trained(config=LifecycleConfig(parent_moments=parent_moments))
    if kind == "revive":
        run.prune("L0_E3")
        origin = run.all_live()
        done = run.birth(Action.REVIVE, 0, "L0_E3")
    else:
        origin = run.all_live()
        done = EDITS[kind](run)
    run.train(4)
    undo, now = run.ledger.undo[done.seq], run.all_live()
    undone = run.roll_back(done.seq)
    after = run.all_live()
    assert after.keys() == origin.keys()
    for name, values in after.items():
        assert same(values, origin[name] if name in undo.saved else now[name]), name
    assert undone.experts_after == run.registry.slots(0)
    assert not run.ledger.ramps
    assert not run.registry.twins
    assert run.layers[0].twins is None
    assert done.seq not in run.ledger.undo
    run.train(2)


def test_a_trial_puts_the_tensors_back_when_it_fails() -> None:
    run = trained()
    layer = run.layers[0]
    tensors = layer.slot_tensors()
    pair = Twin(0, 1, torch.ones(16), torch.tensor(0.0))
    offsets: list[list[float]] = []

    def fails() -> None:
        offset = {LOGIT_OFFSET: torch.tensor(2.0)}
        with trial(layer, [0, 2], write={1: offset}, pairs_after=[pair]):
            offsets.append(layer.router.logit_offset.tolist())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match=r"^inside$"):
        fails()
    assert offsets == [[0.0, 2.0]]
    assert all(t is tensors[name] for name, t in layer.slot_tensors().items())
    assert layer.router.logit_offset.tolist() == [0.0] * 4
    assert layer.twins is not None
    assert layer.num_groups == 3


def test_a_trial_that_cannot_be_says_so_and_changes_nothing() -> None:
    run = trained()
    tensors = run.layers[0].slot_tensors()
    with pytest.raises(ValueError, match="1 experts would be left"), trial(run.layers[0], [0]):
        pass
    assert all(t is tensors[name] for name, t in run.layers[0].slot_tensors().items())


def test_leaving_one_out_is_a_model_without_it() -> None:
    run = trained()
    got = leave_one_out(run.surgeon, run.probe, STEP, 0, 2)
    rebuild(run.layers[0], [0, 1, 3])
    assert got == run.probe(STEP)


def test_too_few_groups_cannot_be_tried() -> None:
    run = SmallRun([2, 4])
    run.train(4)
    assert leave_one_out(run.surgeon, run.probe, STEP, 0, 1) is None
    run.split("L0_E1")
    # A twin may be left out, not the expert that is no part of the pair.
    assert leave_one_out(run.surgeon, run.probe, STEP, 0, 0) is None
    assert leave_one_out(run.surgeon, run.probe, STEP, 0, 2) is not None
    # A pair is one group: without its newest expert the layer had one place for two choices.
    done = run.spawn(0, ["L0_E0"])
    run.prune("L0_E0")
    undo = run.ledger.undo[done.seq]
    assert loss_without(run.surgeon, run.probe, STEP, undo, restored=False) is None
    assert judge_by_probe(run.surgeon, run.probe, STEP, 1.0, undo, 0.0) is None


def test_harm_alone_asks_what_a_rollback_would_give() -> None:
    run = trained()
    done = run.prune("L0_E3")
    undo = run.ledger.undo[done.seq]
    undone = loss_without(run.surgeon, run.probe, STEP, undo, restored=False)
    assert undone is not None
    for loss, harm in [(undone * 1.004, False), (undone * 1.006, True)]:
        reading = judge_by_probe(run.surgeon, run.probe, STEP, loss, undo, 0.005)
        assert reading is not None
        assert (reading.seq, reading.probe_loss, reading.undone_loss) == (done.seq, loss, undone)
        assert (reading.restored_loss is not None) is harm


def test_a_lens_goes_on_steering_in_a_trial() -> None:
    """Shares of another population would switch it off, and the trial would measure that."""
    run = trained()
    lens = attach_lens(run.layers[0], 4, torch.device("cpu"))
    run.surgeon.lenses = {0: lens}
    lens.update_steering([0.7, 0.1, 0.1, 0.1])
    lens.set_scale(0.8)
    steered: list[bool] = []
    plain = run.probe(STEP)

    def probe(step: int) -> float:
        steered.append(lens.direction() is not None)
        return run.probe(step)

    assert leave_one_out(run.surgeon, probe, STEP, 0, 2) is not None
    done = run.spawn(0, ["L0_E0"])
    undo = run.ledger.undo[done.seq]
    state = copy.deepcopy(lens.state())
    assert loss_without(run.surgeon, probe, STEP, undo, restored=False) == pytest.approx(
        plain, rel=1e-3
    )
    assert steered == [True, True]
    for name, value in lens.state().items():
        assert (
            torch.equal(value, state[name]) if isinstance(value, Tensor) else (value == state[name])
        )
    assert isinstance(lens, ChronoLens)
    assert isinstance(lens.V, nn.Parameter)


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_an_undo_survives_its_plain_form(kind: str) -> None:
    run = trained()
    undo = run.ledger.undo[EDITS[kind](run).seq]
    back = unpack_undo(pack_undo(undo))
    assert (back.seq, back.action, back.layer_id) == (undo.seq, undo.action, undo.layer_id)
    assert (back.born, back.gone) == (undo.born, undo.gone)
    assert back.saved.keys() == undo.saved.keys()
    for name, saved in undo.saved.items():
        assert same(back.saved[name].values, saved.values)
        assert back.saved[name].moments.keys() == saved.moments.keys()
        for entry, moments in saved.moments.items():
            assert same(back.saved[name].moments[entry], moments)


def test_undos_hold_copies() -> None:
    run = trained()
    done = run.split("L0_E1")
    saved = run.ledger.undo[done.seq].saved["L0_E1"]
    values = {name: value.clone() for name, value in saved.values.items()}
    run.train(2)
    assert same(saved.values, values)
    assert not same(read_expert(run.layers[0], 1), values)


def test_a_release_without_training_is_undone_exactly() -> None:
    run = trained(config=LifecycleConfig(split_perturbation_scale=0.0))
    before = run.probe(STEP)
    done = run.split("L0_E1")
    run.population.release_twins(run.step, {done.expert_id: 99})
    undo = run.ledger.undo[done.seq]
    assert undo.released_by is not None
    got = loss_without(run.surgeon, run.probe, STEP, undo, restored=False)
    assert got == pytest.approx(before, rel=1e-6)


def test_who_was_rolled_back_is_marked_and_does_not_come_back_by_itself() -> None:
    run = trained()
    done = run.split("L0_E1")
    run.roll_back(done.seq)
    assert run.registry[done.expert_id].rolled_back
