"""Gates that teach the router: what is chosen for a top-k, and what is refused."""

from __future__ import annotations

import re

import pytest

from chronorun.config.compose import ConfigFiles, compose_checked, compose_run
from chronorun.config.gates import saved_orders
from chronorun.config.model import GateChoice, GateOrder, RouterConfig
from chronorun.config.paths import conf_dir
from chronorun.errors import UserError

EXPLICIT = "router.gate_order=topk_then_softmax"


def refusal(where: str) -> str:
    return (
        "configuration: router.gate_order=topk_then_softmax, expected auto or softmax_then_topk "
        f"with {where} (a softmax over one chosen expert is always 1, and the router would learn "
        "nothing); use router.gate_order=auto"
    )


def test_auto_takes_the_full_softmax_at_top_1_alone() -> None:
    orders = [GateChoice.auto.order(k) for k in (1, 2, 3, 8)]
    assert orders == [GateOrder.softmax_then_topk] + 3 * [GateOrder.topk_then_softmax]


@pytest.mark.parametrize("order", list(GateOrder))
def test_a_named_order_stays_what_it_is_whichever_enum_names_it(order: GateOrder) -> None:
    for named in (order, GateChoice(order.value)):
        config = RouterConfig(gate_order=named)
        assert config.gate_order is GateChoice(order.value)
        assert [config.gate_order.order(k) for k in (1, 2)] == [order, order]


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["model.top_k=1"], "model.top_k=1"),
        (["scenario=too_few"], "model.top_k=1"),
        (["scenario=too_many"], "model.top_k=1"),
        (["experiment=overprovisioned"], "model.top_k=1"),
        (["model.top_k=1", "router=noisy"], "model.top_k=1"),
        (
            ["scenario=capacity_whiplash"],
            "top_k=1, which scenario=capacity_whiplash sets for a while",
        ),
        (
            ["scenario=capacity_whiplash", "model.top_k=3"],
            "top_k=1, which scenario=capacity_whiplash sets for a while",
        ),
    ],
)
def test_a_softmax_over_one_logit_is_refused_with_advice_that_works(
    overrides: list[str], where: str
) -> None:
    with pytest.raises(UserError) as error:
        compose_run([*overrides, EXPLICIT])
    assert str(error.value) == refusal(where)
    advice = re.search(r"use (\S+)$", str(error.value))
    assert advice is not None
    config, _ = compose_run([*overrides, advice[1]])
    assert config.router.gate_order is GateChoice.auto


def test_one_job_of_a_sweep_is_enough() -> None:
    files = ConfigFiles(conf_dir())
    with pytest.raises(UserError) as error:
        compose_checked(["model.top_k=2,1", EXPLICIT], files, multirun=True)
    assert str(error.value) == refusal("model.top_k=1")


@pytest.mark.parametrize("overrides", [[], ["model.top_k=3"], ["scenario=collapse"]])
def test_the_order_may_be_named_from_top_2_on(overrides: list[str]) -> None:
    config, _ = compose_run([*overrides, EXPLICIT])
    assert config.router.gate_order is GateChoice.topk_then_softmax


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"router.gate_order": "auto", "model.top_k": 1},
        {"router.gate_order": "none", "model.top_k": 1, "scenario.kind": "none"},
        {"router.gate_order": "auto", "model.top_k": "${x}", "scenario.kind": "none"},
        {"router.gate_order": "auto", "model.top_k": None, "scenario.kind": "none"},
    ],
)
def test_a_saved_configuration_that_does_not_say_has_no_orders(saved: dict[str, object]) -> None:
    assert saved_orders(saved) == {}


def test_a_saved_stress_counts_with_the_top_k_that_it_sets() -> None:
    saved = {
        "router.gate_order": "topk_then_softmax",
        "model.top_k": 2,
        "scenario.kind": "capacity_whiplash",
    }
    assert saved_orders(saved) == dict.fromkeys((1, 2), GateOrder.topk_then_softmax)
