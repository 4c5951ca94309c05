"""The table at the end of a bench: golden texts, and names that are no markup."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from unit.bench.bench_sweep import sweep

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, Comparison, VerdictRules, judge
from chronorun.bench.report.figures import percents, signed
from chronorun.bench.report.screen import MOST_JOBS, render_table

GOLDEN = Path(__file__).parent / "golden"
LOSS = 2.0
HOSTILE = "[bold red]x[/] \x1b[31m\x1b]0;t\x07\u202e"


def comparison(baseline: str, percent: float, *, n: int = 10, half: float = 0.1) -> Comparison:
    mean, reach = LOSS * percent / 100, LOSS * half / 100
    return Comparison(
        baseline, n, dict.fromkeys(range(n), mean), mean, percent / 100,
        mean - reach, mean + reach, 0.002, 0.006, 1.0, 1.0, 0.01,
    )  # fmt: skip


def cell(scenario: str, variant: str, word: str, reason: str, *figures: float) -> CellVerdict:
    compared = zip(("static", "loss_free", "yoked"), figures, strict=False)
    comparisons = [comparison(*pair) for pair in compared]
    return CellVerdict(scenario, variant, word, reason, 10, comparisons)  # type: ignore[arg-type]


VERDICTS = [
    cell("none", "", "NO HARM", "within 0.5% of static; yoked lacks seed 2", 0.03, 0.01, 0.03),
    cell("too_many", "", "HELPS", "better than static, loss_free and yoked", -2.7, -1.83, -12.3),
    cell("dead_expert", "lifecycle=aggressive", "HARMS", "worse than static by 2.2%", 2.18, 2.2),
    cell("planted_two_mode", "", "INCONCLUSIVE", "needs 12 seeds", -0.2, 0.1, 0.004),
]


def printed(verdicts: list[CellVerdict], results: list[JobResult], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, legacy_windows=False)
    console.print(render_table(verdicts, results, width), crop=False)
    assert not any(line.endswith(" ") for line in out.getvalue().splitlines())
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_a_bench_looks_as_it_did(width: int) -> None:
    text = printed(VERDICTS, sweep(), width)
    assert max(map(len, text.splitlines())) <= width
    path = GOLDEN / f"bench_{width}.txt"
    if os.environ.get("CHRONORUN_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_short_reasons_stand_beside_the_verdicts() -> None:
    text = printed([replace(verdict, reason="needs 9 seeds") for verdict in VERDICTS], [], 120)
    assert sum(line.endswith("  needs 9 seeds") for line in text.splitlines()) == len(VERDICTS)


def test_baselines_that_were_not_run_have_no_column() -> None:
    head = printed([cell("none", "", "NO HARM", "", 0.1)], [], 80).splitlines()[1]
    assert head.split() == ["scenario", "static", "edits", "verdict"]


def test_a_bench_without_the_usual_baselines_shows_others() -> None:
    verdict = replace(VERDICTS[0], comparisons=[comparison("lens", -1.0)])
    lines = printed([verdict], [], 80).splitlines()
    assert lines[1].split() == ["scenario", "lens", "edits", "verdict"]
    assert lines[2].split()[:5] == ["healthy", "-1.00", "-", "NO", "HARM"]


def test_a_comparison_without_seeds_is_a_dash() -> None:
    verdict = cell("none", "", "INCONCLUSIVE", "no job of static", 0.1, 0.1, 0.1)
    verdict = replace(verdict, comparisons=[comparison("static", 0.1, n=0)])
    assert printed([verdict], [], 80).splitlines()[2] == (
        "healthy        -      -  INCONCLUSIVE  no job of static"
    )


def test_edits_are_the_mean_of_the_lifecycle_in_that_cell() -> None:
    results = [
        JobResult(i, "", arm, "none", variant, i, "completed", "", {"val_loss": 1.0, "edits": n})
        for i, (arm, variant, n) in enumerate(
            [
                ("lifecycle", "", 1.0),
                ("lifecycle", "", 2.0),
                ("yoked", "", 9.0),
                ("lifecycle", "v", 9),
            ]
        )
    ]
    assert " 1.5  NO HARM" in printed(VERDICTS[:1], results, 80)


def test_hostile_names_stay_text() -> None:
    verdict = CellVerdict(HOSTILE, HOSTILE, "HARMS", HOSTILE, 10, [comparison("static", 1.0)])
    job = JobResult(0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0, "failed", HOSTILE)
    for width in (80, 120):
        text = printed([verdict], [job], width)
        assert not set(text) & set("\x1b\x07\u202e")
        assert text.count("[bold red]x[/]") == 5


def test_jobs_without_a_result_are_counted_and_named() -> None:
    bad = [
        JobResult(0, "0-a", "static", "none", "", 0, "failed", "out of\nmemory"),
        JobResult(1, "", "yoked", "none", "v=1", 3, "missing", "has left no record"),
        JobResult(2, "2-c", "static", "none", "", 1, "completed", "", {"val_loss": float("nan")}),
        JobResult(3, "3-d", "static", "none", "", 2, "completed", "", {"val_loss": 1.0}),
    ]
    lines = [line for line in printed([], bad, 80).splitlines() if line]
    assert lines == [
        "3 of 4 jobs have no result: 1 failed, 1 missing, 1 no loss",
        "  failed   0-a: out of memory",
        "  missing  healthy v=1 yoked seed 3: has left no record",
        "  no loss  2-c: no finite val_loss",
    ]


def test_many_failures_do_not_flood_the_terminal() -> None:
    job = JobResult(0, "f", "static", "none", "", 0, "failed", "x")
    jobs = [replace(job, number=number) for number in range(MOST_JOBS + 5)]
    lines = printed([], jobs, 80).splitlines()
    assert lines[-1] == "  ... 5 more in results.csv"
    assert len(lines) == MOST_JOBS + 2


def test_without_failures_it_says_so() -> None:
    job = JobResult(0, "f", "static", "none", "", 0, "no_edit", "", {"val_loss": 1.0})
    assert printed([], [job], 80).split("\n")[0] == "The 1 job has a result."
    assert printed([], [job, job], 80).split("\n")[0] == "All 2 jobs have a result."


def test_one_seed_has_no_brackets() -> None:
    alone = replace(comparison("static", -1.0, n=1), low=float("nan"), high=float("nan"))
    text = printed([replace(VERDICTS[0], comparisons=[alone])], [], 80)
    assert text.splitlines()[2].split()[:3] == ["healthy", "-1.00", "-"]


@pytest.mark.parametrize("arm", ["static", "lifecycle"])
def test_a_sweep_of_one_arm_shows_losses_and_compute_and_no_interval(arm: str) -> None:
    results = sweep(seeds=2, arms=(arm,))
    lines = printed(judge(results, VerdictRules()), results, 80).splitlines()
    assert max(map(len, lines)) <= 80
    losses = [r.metrics["val_loss"] or 0.0 for r in results[:2]]
    mean, sd = sum(losses) / 2, abs(losses[0] - losses[1]) / 2**0.5
    assert lines[2] == "healthy"
    figures = [f"{mean:.4f}", f"{sd:.4f}", "3.5", "T", "420", "M", "400", "10.5"]
    assert lines[3].split() == [arm, "2", *figures]
    assert "bootstrap" not in "".join(lines)
    assert "baseline" not in "".join(lines)
    other = {"static": "lifecycle", "lifecycle": "static"}[arm]
    assert sum(line.endswith(f"no job of {other}") for line in lines) == 3


def test_what_a_follower_did_not_train_is_not_its_cost() -> None:
    results = [replace(r, status="no_edit") if r.arm == "yoked" else r for r in sweep(seeds=2)[:10]]
    text = printed(judge(results, VerdictRules()), results, 80)
    line = next(line for line in text.splitlines() if line.startswith("  yoked"))
    assert line.split()[1:3] == ["2", "(0)"]
    assert line.split()[5:] == ["-", "-", "-", "-"]
    assert max(map(len, text.splitlines())) <= 80


def test_arms_without_any_result_have_their_line_too() -> None:
    results = [
        replace(r, status="failed") if r.arm == "lifecycle" else r for r in sweep(seeds=2)[:10]
    ]
    text = printed(judge(results, VerdictRules()), results, 80)
    assert "  lifecycle        0       -       -      -               -    -        -" in text


def test_percents_follow_the_baselines_mean() -> None:
    assert percents(comparison("static", -2.0)) == pytest.approx((-2.0, -2.1, -1.9))
    still = replace(comparison("static", 0.0), low=0.0, high=0.0)
    assert percents(still) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-2.134, "−2.13"), (0.001, "0.00"), (-0.001, "0.00"), (9.999, "+10.0"), (-12.34, "−12.3"),
        (123.4, "+123"), (float("nan"), "–"), (None, "–"),
    ],
)  # fmt: skip
def test_percents_have_about_three_digits(value: float | None, text: str) -> None:
    assert signed(value) == text
