"""Verdicts from planted results: effects are found, nulls are not, and gaps are said."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import VerdictRules, judge, to_json, verdict_record
from chronorun.errors import UserError

RULES = VerdictRules()
FIVE = ("static", "static_mean", "loss_free", "yoked", "lifecycle")
NOISE = 0.002


def jobs(losses, scenario="none", variant="", start=0):
    """One job for each value of {arm: [loss of seed 0, loss of seed 1, ...]}, None: it failed."""
    made = []
    for arm, values in losses.items():
        for seed, loss in enumerate(values):
            number = start + len(made)
            status = "failed" if loss is None else "completed"
            metrics = {} if loss is None else {"val_loss": float(loss)}
            reason = "ran out of memory" if loss is None else ""
            where = (number, f"{number}-arm={arm}", arm, scenario, variant, seed)
            made.append(JobResult(*where, status, reason, metrics, {"seconds": 10.0 + number}))
    return made


def planted(effects, n=10, seed=0):
    """Losses near 2 nats with a level of its own for each seed; ``effects`` are added by arm."""
    rng = np.random.default_rng(seed)
    level = 2.0 + rng.normal(0, 0.1, size=n)
    return {arm: list(level + by + rng.normal(0, NOISE, size=n)) for arm, by in effects.items()}


def ladder(lifecycle, n=10, **others):
    """Losses without noise: 2 + seed/100, plus a shift or one shift a seed, for each arm."""
    effects = {"static": 0.0, "loss_free": 0.0, "yoked": 0.0, "lifecycle": lifecycle} | others
    return {
        arm: [
            2 + seed / 100 + (by[seed] if isinstance(by, list) else by * (1 + seed / 1000))
            for seed in range(n)
        ]
        for arm, by in effects.items()
        if by is not None
    }


def words(results, rules=RULES):
    return [(verdict.verdict, verdict.reason) for verdict in judge(results, rules)]


def only(results, rules=RULES):
    (verdict,) = judge(results, rules)
    return verdict


def against(verdict, baseline):
    return next(c for c in verdict.comparisons if c.baseline == baseline)


# --- planted effects


def test_a_lifecycle_better_than_all_three_helps():
    verdict = only(jobs(planted(dict.fromkeys(FIVE, 0.0) | {"lifecycle": -0.05})))
    assert (verdict.verdict, verdict.n) == ("HELPS", 10)
    assert verdict.reason == "better than static, loss_free and yoked (Holm p 0.002)"
    assert verdict.help_p == verdict.help_p_holm == 2 / 2**10
    assert [c.baseline for c in verdict.comparisons] == [a for a in FIVE if a != "lifecycle"]


def test_a_lifecycle_worse_than_static_harms():
    verdict = only(jobs(planted(dict.fromkeys(FIVE, 0.0) | {"lifecycle": 0.05})))
    assert verdict.verdict == "HARMS"
    assert verdict.reason == "worse than static by 2.5% (Holm p 0.002)"
    assert verdict.help_p == 1


def test_figures_of_a_comparison_are_those_of_the_pairs():
    found = against(only(jobs(ladder([-0.1, -0.2, -0.3, -0.4, -0.5, 0.3], n=6))), "static")
    assert (found.n, list(found.differences)) == (6, [0, 1, 2, 3, 4, 5])
    assert found.differences[3] == pytest.approx(-0.4)
    assert found.mean == pytest.approx(-0.2)
    assert found.relative_mean == pytest.approx(-0.2 / 2.025)
    assert found.margin == pytest.approx(0.005 * 2.025)
    # Of the 64 sign patterns those with a sum of at least 1.2 of 1.8 on either side: minus-sets
    # of at most 0.3: {}, 1, 2, 3, the other 3, 12.
    assert found.p == found.p_holm == 12 / 64
    assert -0.5 < found.low < -0.2 < found.high < 0.3


@pytest.mark.parametrize(("others", "rest"), [({}, None), ({"static_max": 0.0}, "static_max")])
def test_arms_beside_the_three_are_compared_but_decide_nothing(others, rest):
    verdict = only(jobs(ladder(-0.05, **({rest: -0.5} if rest else {}))))
    assert verdict.verdict == "HELPS"
    if rest:
        assert against(verdict, rest).mean > 0.4


# --- planted nulls


def error_rate(effects, wrong, sweeps=200, cells=3, n=8):
    """The share of simulated sweeps in which any cell says one of the wrong words."""
    found = 0
    for sweep in range(sweeps):
        results = []
        for cell in range(cells):
            losses = planted(effects, n, seed=1000 * cell + sweep)
            results += jobs(losses, scenario=f"s{cell}", start=len(results))
        found += any(word in wrong for word, _ in words(results))
    return found / sweeps


@pytest.fixture
def without_intervals(monkeypatch):
    # No verdict reads an interval, and simulated sweeps spend most of their time on them.
    def none(sample, confidence):
        return float("nan"), float("nan")

    monkeypatch.setattr("chronorun.bench.evidence.comparisons.bca_interval", none)


ARMS = ("static", "loss_free", "yoked", "lifecycle")


@pytest.mark.whole
@pytest.mark.usefixtures("without_intervals")
def test_planted_nulls_are_rarely_called_effects():
    # The family-wise rate is at most 5% by design; 200 sweeps may show up to 8.5% of that.
    assert error_rate(dict.fromkeys(ARMS, 0.0), ("HELPS", "HARMS")) <= 0.085


@pytest.mark.whole
@pytest.mark.usefixtures("without_intervals")
def test_edits_that_help_by_chance_alone_are_rarely_called_help():
    effects = {"static": 0.0, "loss_free": 0.0, "yoked": -0.05, "lifecycle": -0.05}
    assert error_rate(effects, ("HELPS",)) <= 0.085


@pytest.mark.whole
@pytest.mark.usefixtures("without_intervals")
def test_an_effect_just_beyond_the_margin_is_rarely_called_no_harm():
    # On the side where HARMS cannot hide a wrong NO HARM; yoked keeps HELPS away.
    effects = {"static": 0.0, "loss_free": 0.0, "yoked": -0.0102, "lifecycle": -0.0102}
    assert error_rate(effects, ("NO HARM",)) <= 0.085


def test_a_planted_null_within_the_margin_does_no_harm():
    verdict = only(jobs(planted(dict.fromkeys(ARMS, 0.0), seed=1)))
    assert verdict.verdict == "NO HARM"
    static = against(verdict, "static")
    assert static.p > 0.05
    assert static.tost_p < 1e-4
    start, end = verdict.reason.split("; ")
    assert start == f"within 0.5% of static (Holm TOST p {static.tost_p_holm:.2g})"
    assert end.startswith("not better than static (p ")


def test_a_planted_null_with_more_noise_than_margin_is_inconclusive():
    shifts = [0.05, -0.04, 0.03, -0.06, 0.05, -0.02, 0.01, -0.03, 0.02, -0.01]
    verdict = only(jobs(ladder(shifts)))
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.reason == "not better than static (p 1), loss_free (p 1) and yoked (p 1)"
    assert against(verdict, "static").tost_p > 0.05


def test_a_lifecycle_that_never_edits_does_no_harm():
    verdict = only(jobs(ladder(0.0)))
    assert verdict.verdict == "NO HARM"
    assert (against(verdict, "static").mean, against(verdict, "static").tost_p) == (0, 0)


# --- precedence


def test_a_certain_harm_within_the_margin_is_still_a_harm():
    verdict = only(jobs(ladder(0.002)))
    assert against(verdict, "static").tost_p_holm < 0.05
    assert verdict.verdict == "HARMS"
    assert verdict.reason == (
        "worse than static by 0.098% (Holm p 0.002), yet within the margin of 0.5%"
    )


def test_a_certain_gain_within_the_margin_helps():
    verdict = only(jobs(ladder(-0.002)))
    assert against(verdict, "static").tost_p_holm < 0.05
    assert verdict.verdict == "HELPS"


# --- the three to beat


def test_yoked_edits_that_do_as_well_forbid_help():
    mixed = [-0.05 + by for by in (0.01, -0.01, 0.02, -0.02, 0.03, -0.03, 0.01, -0.01, 0.02, -0.02)]
    assert words(jobs(ladder([-0.05] * 10, yoked=mixed))) == [
        ("INCONCLUSIVE", "better than static and loss_free, not than yoked (p 1)")
    ]


def test_worse_than_yoked_is_said():
    assert words(jobs(ladder(-0.05, yoked=-0.1))) == [
        ("INCONCLUSIVE", "better than static and loss_free, worse than yoked (p 0.002)")
    ]


@pytest.mark.parametrize("baseline", ["static", "loss_free", "yoked"])
def test_each_of_the_three_can_forbid_help(baseline):
    assert words(jobs(ladder(-0.05)))[0][0] == "HELPS"
    assert words(jobs(ladder(-0.05, **{baseline: -0.1})))[0][0] in ("HARMS", "INCONCLUSIVE")


def test_the_largest_of_the_three_p_counts():
    # Against yoked one small difference of ten has the other sign: 4 of 1024 patterns.
    verdict = only(jobs(ladder(-0.05, yoked=[-0.051] + [-0.04 - k / 1000 for k in range(9)])))
    assert against(verdict, "static").p == 2 / 1024
    assert verdict.help_p == against(verdict, "yoked").p == 4 / 1024


@pytest.mark.parametrize(
    ("absent", "reason"),
    [
        (("yoked",), "not compared with yoked"),
        (("loss_free",), "not compared with loss_free"),
        (("loss_free", "yoked"), "not compared with loss_free, yoked"),
    ],
)
def test_help_needs_all_three_arms(absent, reason):
    assert words(jobs(ladder(-0.05, **dict.fromkeys(absent)))) == [("INCONCLUSIVE", reason)]


def test_harm_and_no_harm_need_static_alone():
    assert words(jobs(ladder(0.05, loss_free=None, yoked=None)))[0][0] == "HARMS"
    no_harm = words(jobs(ladder(0.0, loss_free=None, yoked=None)))
    assert no_harm == [
        ("NO HARM", "within 0.5% of static (no variance); not compared with loss_free, yoked")
    ]


@pytest.mark.parametrize("absent", ["static", "lifecycle"])
def test_a_cell_without_one_of_the_two_arms_is_inconclusive(absent):
    losses = ladder(-0.05)
    del losses[absent]
    verdict = only(jobs(losses))
    assert (verdict.verdict, verdict.reason) == ("INCONCLUSIVE", f"no job of {absent}")
    assert verdict.n == 0
    baselines = [comparison.baseline for comparison in verdict.comparisons]
    assert baselines == (["loss_free", "yoked"] if absent == "static" else [])


# --- seeds that are missing


def test_a_baseline_that_lost_a_seed_forbids_help():
    losses = ladder(-0.05)
    losses["yoked"][3] = losses["yoked"][7] = None
    verdict = only(jobs(losses))
    assert (verdict.verdict, verdict.n) == ("INCONCLUSIVE", 10)
    assert verdict.reason == "yoked lacks seeds 3, 7"
    assert against(verdict, "yoked").n == 8
    assert list(against(verdict, "yoked").differences) == [0, 1, 2, 4, 5, 6, 8, 9]


def test_gaps_are_said_together():
    losses = ladder(-0.05, loss_free=None)
    losses["yoked"][3] = None
    assert words(jobs(losses)) == [
        ("INCONCLUSIVE", "not compared with loss_free, yoked lacks seed 3")
    ]


def test_a_seed_that_static_lost_counts_for_no_comparison():
    losses = ladder(-0.05)
    losses["static"][9] = None
    verdict = only(jobs(losses))
    assert (verdict.verdict, verdict.n) == ("HELPS", 9)
    assert [comparison.n for comparison in verdict.comparisons] == [9, 9, 9]


@pytest.mark.parametrize("lost", [None, float("nan"), float("inf")])
def test_a_seed_that_the_lifecycle_lost_forbids_help_and_no_harm(lost):
    for shift in (-0.05, 0.0):
        losses = ladder(shift)
        losses["lifecycle"][2] = lost
        verdict = only(jobs(losses))
        assert (verdict.verdict, verdict.n) == ("INCONCLUSIVE", 9)
        assert verdict.reason == "lifecycle lacks seed 2"
    losses = ladder(0.05)
    losses["lifecycle"][2] = lost
    assert only(jobs(losses)).verdict == "HARMS"


def test_an_arm_whose_jobs_all_failed_is_not_compared():
    verdict = only(jobs(ladder(-0.05) | {"yoked": [None] * 10}))
    assert verdict.reason == "not compared with yoked"
    assert (against(verdict, "yoked").n, against(verdict, "yoked").p) == (0, 1)


@pytest.mark.parametrize(
    ("lost", "also", "reason"),
    [
        (10, 0, "lifecycle has no result on 10 of 10 seeds (static on 0)"),
        (5, 2, "lifecycle has no result on 5 of 10 seeds (static on 2)"),
        (0, 9, "static has no result on 9 of 10 seeds (lifecycle on 0)"),
    ],
)
@pytest.mark.parametrize("value", [None, float("nan")])
def test_seeds_that_were_run_and_gave_nothing_are_not_called_too_few(lost, also, reason, value):
    losses = ladder(-0.05)
    losses["lifecycle"][:lost] = [value] * lost
    losses["static"][:also] = [value] * also
    verdict = only(jobs(losses))
    assert (verdict.verdict, verdict.reason) == ("INCONCLUSIVE", reason)
    assert verdict.n == 10 - max(lost, also)


def test_too_few_seeds_of_which_some_gave_nothing_say_both():
    losses = ladder(-0.05, n=5)
    losses["lifecycle"][3] = None
    reason = "lifecycle has no result on 1 of 5 seeds (static on 0); needs 6 seeds"
    assert words(jobs(losses)) == [("INCONCLUSIVE", reason)]


# --- enough seeds


@pytest.mark.parametrize(
    ("cells", "n", "needs"), [(1, 5, 6), (2, 6, 7), (10, 8, 9), (1, 0, 6), (1, 1, 6)]
)
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_too_few_seeds_are_said_whatever_the_effect(cells, n, needs, shift):
    def sweep(n):
        return [
            job
            for cell in range(cells)
            for job in jobs(ladder([shift] * n, n), f"s{cell}", start=100 * cell)
        ]

    if n:
        assert words(sweep(n)) == [("INCONCLUSIVE", f"needs {needs} seeds")] * cells
    else:
        failed = {arm: [None] for arm in ARMS}
        reason = f"lifecycle has no result on 1 of 1 seed (static on 1); needs {needs} seeds"
        assert words(jobs(failed)) == [("INCONCLUSIVE", reason)]
    expected = {-0.5: "HELPS", 0.0: "NO HARM", 0.5: "HARMS"}[shift]
    assert [word for word, _ in words(sweep(needs))] == [expected] * cells


def test_a_cell_without_the_arms_asks_for_no_more_seeds():
    others = jobs({"static": [2.0] * 6, "lens": [2.0] * 6}, scenario="too_few", start=100)
    assert words(jobs(ladder(-0.05, n=6)) + others) == [
        ("HELPS", "better than static, loss_free and yoked (Holm p 0.031)"),
        ("INCONCLUSIVE", "no job of lifecycle"),
    ]


# --- Holm over the cells


def almost():
    """Seven seeds, one small difference of the wrong sign: p is 4/128 = 0.031 for all three."""
    return ladder([0.001, *(-0.04 - k / 1000 for k in range(6))], n=7)


def test_help_in_one_cell_may_not_survive_another():
    assert words(jobs(almost()))[0] == (
        "HELPS",
        "better than static, loss_free and yoked (Holm p 0.031)",
    )
    noisy = ladder([0.05, -0.04, 0.03, -0.06, 0.05, -0.02, 0.01], n=7)
    two = words(jobs(almost()) + jobs(noisy, scenario="too_few", start=100))
    assert two[0] == (
        "INCONCLUSIVE",
        "better than static, loss_free and yoked in this cell alone, "
        "not over 2 cells (Holm p 0.062)",
    )


def test_holm_is_kinder_where_the_other_cell_is_clear():
    clear = jobs(ladder(-0.05, n=7), scenario="too_few", start=100)
    assert [word for word, _ in words(jobs(almost()) + clear)] == ["HELPS", "HELPS"]


def test_the_variants_of_a_scenario_are_cells_of_the_same_family():
    results = jobs(ladder(-0.05)) + jobs(ladder(0.05), variant="lifecycle=aggressive", start=100)
    found = judge(results, RULES)
    assert [(v.scenario, v.variant, v.verdict) for v in found] == [
        ("none", "", "HELPS"),
        ("none", "lifecycle=aggressive", "HARMS"),
    ]
    assert against(found[1], "static").p_holm == 2 * against(found[1], "static").p
    assert found[0].help_p_holm == 2 * found[0].help_p


def test_cells_that_failed_still_count_and_cells_without_the_arms_do_not():
    failed = jobs(dict.fromkeys(ARMS, [None] * 7), scenario="too_few", start=100)
    assert words(jobs(almost()) + failed)[0][0] == "INCONCLUSIVE"
    others = jobs({"static": [2.0] * 7, "lens": [2.0] * 7}, scenario="too_few", start=100)
    assert words(jobs(almost()) + others)[0][0] == "HELPS"


def test_an_arm_of_some_cells_is_corrected_over_those_cells():
    results = jobs(ladder(-0.05, lens=0.0)) + jobs(ladder(-0.05), scenario="too_few", start=100)
    first = judge(results, RULES)[0]
    assert (against(first, "static").p_holm, against(first, "lens").p_holm) == (4 / 1024, 2 / 1024)


# --- no edits, order, rules


def test_a_seed_without_edits_is_a_pair_of_no_difference():
    losses = ladder(-0.05)
    copies = [
        replace(job, status="no_edit", metrics={"val_loss": losses["lifecycle"][job.seed]})
        if job.arm == "yoked" and job.seed < 5
        else job
        for job in jobs(losses)
    ]
    verdict = only(copies)
    yoked = against(verdict, "yoked")
    assert [yoked.differences[seed] for seed in range(5)] == [0.0] * 5
    assert yoked.n == 10
    # Five pairs can tell nothing at 5%: 2/2^5, and the zeros add nothing.
    assert verdict.help_p == yoked.p == 2 / 2**5
    assert verdict.reason == "better than static and loss_free, not than yoked (p 0.062)"


def test_the_order_of_the_results_does_not_matter():
    results = jobs(planted(dict.fromkeys(FIVE, 0.0) | {"lifecycle": -0.05}))
    losses = planted(dict.fromkeys(FIVE, 0.0), seed=4)
    losses["yoked"][2] = None
    results += jobs(losses, scenario="too_few", start=100)
    expected = to_json(judge(results, RULES), RULES, "s", results)
    for seed in range(3):
        shuffled = random.Random(seed).sample(results, len(results))
        assert to_json(judge(shuffled, RULES), RULES, "s", shuffled) == expected


def test_the_rules_decide():
    losses = planted(dict.fromkeys(ARMS, 0.0), seed=1)
    assert only(jobs(losses), VerdictRules(margin=1e-4)).verdict == "INCONCLUSIVE"
    assert words(jobs(ladder(-0.05)), VerdictRules(alpha=0.001)) == [
        ("INCONCLUSIVE", "needs 11 seeds")
    ]
    wide, narrow = (
        against(only(jobs(losses), VerdictRules(confidence=c)), "static") for c in (0.99, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_another_metric_can_be_judged():
    results = [replace(job, metrics={"area": job.metrics["val_loss"]}) for job in jobs(ladder(0.1))]
    assert only(results, VerdictRules(metric="area")).verdict == "HARMS"
    assert only(results).reason == "lifecycle has no result on 10 of 10 seeds (static on 10)"


@pytest.mark.parametrize("field", ["margin", "alpha", "confidence"])
@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan")])
def test_rules_out_of_range_are_refused(field, value):
    with pytest.raises(UserError) as caught:
        VerdictRules(**{field: value})
    assert str(caught.value) == (
        f"verdicts: {field}={value}, expected a number above 0 and below 1; set bench.{field}"
    )


def test_no_results_give_no_verdicts():
    assert judge([], RULES) == []


# --- verdicts.json


def sweep():
    losses = planted(dict.fromkeys(FIVE, 0.0) | {"lifecycle": -0.05})
    losses["static_mean"][4] = None
    results = jobs(losses)
    skipped = replace(results[-1], number=50, arm="sham", status="skipped", reason="source failed")
    return [*results, replace(skipped, folder="50-arm=sham", metrics={}, wall={})]


def record(results, **changes):
    rules = replace(RULES, **changes)
    return json.loads(to_json(judge(results, rules), rules, "2024-01-01", results))


def test_the_record_holds_rules_cells_and_arms():
    found = record(sweep(), alpha=0.04)
    assert list(found) == [
        "schema_version",
        "sweep_id",
        "rules",
        "must_beat",
        "cells",
        "jobs",
        "jobs_without_result",
        "wall",
    ]
    assert (found["schema_version"], found["sweep_id"]) == (1, "2024-01-01")
    assert found["rules"] == {
        "margin": 0.005,
        "alpha": 0.04,
        "confidence": 0.95,
        "metric": "val_loss",
    }
    (cell,) = found["cells"]
    assert (cell["scenario"], cell["variant"], cell["verdict"]) == ("none", "", "HELPS")
    assert cell["arms"]["static_mean"]["n"] == 9
    losses = planted(dict.fromkeys(FIVE, 0.0) | {"lifecycle": -0.05})
    assert cell["arms"]["lifecycle"]["mean_val_loss"] == pytest.approx(np.mean(losses["lifecycle"]))
    static = cell["comparisons"][0]
    assert static["differences"]["3"] == losses["lifecycle"][3] - losses["static"][3]


def test_the_record_lists_the_jobs_that_gave_nothing():
    found = record(sweep())
    assert found["jobs"] == {"completed": 49, "failed": 1, "skipped": 1}
    assert found["jobs_without_result"] == [
        {
            "number": 14,
            "folder": "14-arm=static_mean",
            "arm": "static_mean",
            "scenario": "none",
            "variant": "",
            "seed": 4,
            "status": "failed",
            "reason": "ran out of memory",
        },
        {
            "number": 50,
            "folder": "50-arm=sham",
            "arm": "sham",
            "scenario": "none",
            "variant": "",
            "seed": 9,
            "status": "skipped",
            "reason": "source failed",
        },
    ]


def test_a_finished_job_without_a_finite_loss_is_listed():
    losses = ladder(0.0)
    losses["yoked"][1] = float("nan")
    (listed,) = record(jobs(losses))["jobs_without_result"]
    assert (listed["arm"], listed["seed"], listed["status"]) == ("yoked", 1, "completed")
    assert listed["reason"] == "no finite val_loss"


def test_figures_that_cannot_be_told_are_null():
    text = to_json(
        judge(sweep(), RULES), RULES, "s", [replace(sweep()[0], wall={"seconds": float("nan")})]
    )
    assert b"NaN" not in text
    assert b"Infinity" not in text
    sham = json.loads(text)["cells"][0]["comparisons"][-1]
    assert (sham["baseline"], sham["n"], sham["differences"]) == ("sham", 0, {})
    assert [sham[name] for name in ("mean", "relative_mean", "low", "high")] == [None] * 4
    assert (sham["p"], sham["tost_p"]) == (1, 1)


def test_equal_sweeps_differ_in_wall_alone():
    slower = [replace(job, wall={name: 3 * v for name, v in job.wall.items()}) for job in sweep()]
    first, second = record(sweep()), record(slower)
    assert first["wall"] != second["wall"]
    del first["wall"], second["wall"]
    assert first == second


def test_wall_holds_the_means_of_the_jobs_that_were_trained():
    results = jobs({"static": [2.0, 2.0], "lifecycle": [2.0, 2.0], "yoked": [2.0, None]})
    results[0] = replace(results[0], wall={"seconds": 4.0, "peak_memory_bytes": 7.0})
    results[1] = replace(results[1], wall={"seconds": 6.0, "peak_memory_bytes": None})
    results[3] = replace(results[3], status="no_edit")
    found = verdict_record(judge(results, RULES), RULES, "s", results)
    assert found["wall"] == {
        "static": {"peak_memory_bytes": 7.0, "seconds": 5.0},
        "lifecycle": {"seconds": 12.0},
        "yoked": {"seconds": 14.0},
    }
