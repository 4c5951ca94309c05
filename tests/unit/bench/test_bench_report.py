"""The report of a bench: whole, true to its inputs, harmless whatever they hold."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import HOSTILE
from unit.analysis.test_report_page import Page
from unit.bench.bench_sweep import CELLS, sweep, write_logs

from chronorun.bench.evidence.results import JobResult
from chronorun.bench.evidence.verdicts import CellVerdict, VerdictRules, judge
from chronorun.bench.report.curves import read_curves
from chronorun.bench.report.figures import p_value
from chronorun.bench.report.markdown import opened, plain
from chronorun.bench.report.words import seeds_listed, summary
from chronorun.bench.report.write import write_reports

RULES = VerdictRules()
COMMAND = "chronorun bench --multirun bench=full"
MACHINE = {"Python": "3.11", "machine": "x86_64, 2 CPUs"}


def written(
    folder: Path,
    results: list[JobResult],
    verdicts: list[CellVerdict] | None = None,
    name: str = "full-1a2b",
    commands: tuple[str, ...] = (COMMAND,),
    machine: dict[str, str] = MACHINE,
) -> tuple[str, Page]:
    """Return the Markdown and the page."""
    verdicts = judge(results, RULES) if verdicts is None else verdicts
    curves = read_curves(results, folder)
    write_reports(name, verdicts, results, RULES, list(commands), machine, folder, curves)
    markdown, html = ((folder / f"report.{end}").read_text("utf-8") for end in ("md", "html"))
    return markdown, Page(html)


@pytest.fixture(scope="module")
def judged() -> tuple[list[JobResult], list[CellVerdict]]:
    results = sweep()
    return results, judge(results, RULES)


@pytest.fixture(scope="module")
def reports(
    judged: tuple[list[JobResult], list[CellVerdict]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Page]:
    folder = tmp_path_factory.mktemp("sweep")
    write_logs(judged[0], folder)
    return written(folder, *judged)


def row(markdown: str, section: str, table: str, first: str) -> list[str]:
    """Return the cells of a row, by heading of its section and its table."""
    part = markdown.split(f"\n## {section}")[1].split("\n## ")[0]
    part = part.split(f"### {table}\n")[1].split("\n#")[0] if table else part
    line = next(line for line in part.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_both_reports_have_all_parts(reports: tuple[str, Page]) -> None:
    markdown, page = reports
    titles = [
        "Verdicts", "Comparisons", "Loss and compute", "Routing and edits", "Further losses",
        "Jobs without a result", "How to read it", "How it was made",
    ]  # fmt: skip
    for title in titles:
        assert re.search(rf"^##+ {title}$", markdown, re.MULTILINE), title
        found = title in page.text or title == "Jobs without a result"
        assert found, title
    assert len(page.labels()) == 1 + 4 * len(CELLS)


def test_the_summary_says_where_it_helps_and_where_it_hurts(reports: tuple[str, Page]) -> None:
    markdown, page = reports
    head = markdown.split("\n## ")[0].splitlines()
    kinds = [line for line in head if line.startswith("- ")]
    assert kinds == [
        "- **It helps: 1 of 3**",
        "- **No harm, and no proven help: 1 of 3**",
        "- **It hurts: 1 of 3**",
        "- **Undecided: 0 of 3**",
    ]
    assert head[head.index(kinds[0]) + 1].startswith("  - too_many: −2.70% (−2.81 to −2.61)")
    assert head[head.index(kinds[1]) + 1].startswith("  - healthy: +0.03% (")
    assert head[head.index(kinds[2]) + 1].startswith("  - dead_expert, lifecycle=aggressive: ")
    assert "1 HELPS, 1 NO HARM, 1 HARMS, 0 INCONCLUSIVE" in page.text


def test_a_win_names_the_further_arms_that_it_does_not_beat(
    judged: tuple[list[JobResult], list[CellVerdict]],
) -> None:
    verdict = judged[1][1]
    assert verdict.verdict == "HELPS"
    (_, (told,)), *_ = summary([verdict], RULES)
    assert "Not shown" not in told
    comparisons = [
        replace(c, p=0.4) if c.baseline == "static_mean" else c for c in verdict.comparisons
    ]
    (_, (told,)), *_ = summary([replace(verdict, comparisons=comparisons)], RULES)
    assert told.endswith(" Not shown to be better than static_mean (−1.39%, p 0.4).")


def test_comparisons_are_those_of_the_verdicts(
    reports: tuple[str, Page], judged: tuple[list[JobResult], list[CellVerdict]]
) -> None:
    for verdict in judged[1]:
        name = "healthy" if verdict.scenario == "none" else verdict.scenario
        for c in verdict.comparisons:
            cells = row(reports[0], name, "Comparisons", c.baseline)
            assert cells[1] == str(c.n)
            assert float(cells[2].replace("−", "-")) == pytest.approx(c.mean, abs=6e-6)
            assert float(cells[3].split()[0].replace("−", "-")) == pytest.approx(
                100 * c.relative_mean, abs=0.006
            )
            shown = [float(cell.replace("−", "-")) for cell in cells[4:]]
            told = [c.p, c.p_holm, c.tost_p, c.tost_p_holm]
            assert shown == pytest.approx(told, rel=0.06)


def test_arms_show_the_means_of_their_jobs(reports: tuple[str, Page]) -> None:
    cells = row(reports[0], "too_many", "Loss and compute", "yoked")
    losses = [
        r.metrics["val_loss"] or 0.0
        for r in sweep()
        if (r.scenario, r.arm) == ("too_many", "yoked")
    ]
    mean = sum(losses) / 10
    sd = (sum((loss - mean) ** 2 for loss in losses) / 9) ** 0.5
    assert cells[:3] == ["yoked", "10", f"{mean:.4f} ± {sd:.4f}"]
    assert cells[3:8] == ["1.25 M", "3.5 T", "328.1 M", "6.25", "4.50"]
    assert cells[8:] == ["404", "13.0"]
    assert row(reports[0], "too_many", "Routing and edits", "yoked")[1:] == [
        "5.75", "5.50", "0.0", "0.400", "0.500", "1.00%", "3.5", "2.0", "1.0", "0.5",
        "−0.01000", "−0.00800",
    ]  # fmt: skip
    assert "Edits by kind: lifecycle PRUNE 3.5; yoked PRUNE 3.5." in reports[0]


def test_recovery_counts_the_censored_as_longer_than_all(reports: tuple[str, Page]) -> None:
    # Seeds 1, 2, 4, 5, 7, 8 recover after 50, 60, 80, 90, 110, 120 steps; four do not.
    cells = row(reports[0], "dead_expert", "Further losses", "static")
    assert cells[-2:] == ["115", "4 of 10"]
    assert "recovery steps" not in reports[0].split("## too_many")[1].split("## dead_expert")[0]


def test_a_median_beyond_the_run_is_no_number(tmp_path: Path) -> None:
    results = [replace(r, metrics=r.metrics | {"recovered": 0.0}) for r in sweep(seeds=3)]
    markdown, _ = written(tmp_path, results)
    cells = row(markdown, "dead_expert", "Further losses", "static")
    assert cells[-2:] == ["not within the run", "3 of 3"]


def test_a_follower_without_edits_is_marked_and_spends_nothing(tmp_path: Path) -> None:
    results = [
        replace(r, status="no_edit") if (r.scenario, r.arm) == ("none", "yoked") else r
        for r in sweep(seeds=3)
    ]
    cells = row(written(tmp_path, results)[0], "healthy", "Loss and compute", "yoked")
    assert cells[1] == "3 (0 trained)"
    assert cells[2] != "–"
    assert cells[3:] == ["–"] * 7


def test_a_followers_costs_are_the_means_of_what_it_trained(tmp_path: Path) -> None:
    results = [
        replace(r, status="no_edit", metrics=r.metrics | {"executed_flops": 9e18, "deferrals": 7.0})
        if (r.scenario, r.arm) == ("too_many", "yoked") and r.seed > 0
        else r
        for r in sweep(seeds=3)
    ]
    markdown, _ = written(tmp_path, results)
    cells = row(markdown, "too_many", "Loss and compute", "yoked")
    assert (cells[1], cells[4], cells[-1]) == ("3 (1 trained)", "3.5 T", "13.0")
    cells = row(markdown, "too_many", "Routing and edits", "yoked")
    # Edits were none in the others, as the lifecycle that they follow says: all count.
    assert (cells[7], cells[8]) == ("3.3", "2.0")


def test_reasons_stand_below_their_rows_where_a_narrow_window_shows_them(tmp_path: Path) -> None:
    written(tmp_path, sweep(seeds=2))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count('<div class="below">needs 7 seeds</div>') == len(CELLS)
    head = html.split("<thead>")[1].split("</thead>")[0]
    assert "why" not in re.sub("<[^>]*>", " ", head).split()


def test_equivalence_without_variance_has_no_p(tmp_path: Path) -> None:
    results = [replace(r, metrics=r.metrics | {"val_loss": 2.0 + r.seed}) for r in sweep()]
    markdown, _ = written(tmp_path, results)
    assert row(markdown, "too_many", "Comparisons", "static")[-2:] == ["no variance"] * 2
    assert "(no variance)" in markdown
    assert p_value(1e-17) == "< 1e−16"
    assert p_value(3e-5) == "3e−05"


def test_jobs_without_a_result_are_named(reports: tuple[str, Page]) -> None:
    markdown, page = reports
    assert "2 of 150 jobs have no result: 1 failed, 1 skipped" in markdown
    assert row(markdown, "Jobs", "Jobs without a result", "117")[1:] == [
        "failed", "dead_expert", "lifecycle=aggressive", "loss_free", "3",
        "117-arm=loss_free,scenario=dead_expert,seed=3", "DivergenceError: loss is nan",
    ]  # fmt: skip
    assert "13 skipped healthy – yoked 2 13-arm=yoked,scenario=none,seed=2" in page.text


def test_seeds_machine_and_commands_are_told(reports: tuple[str, Page]) -> None:
    for text in (reports[0], reports[1].text):
        assert "seeds: 0 to 9" in text
        assert "machine: x86_64, 2 CPUs" in text
        assert COMMAND in text


@pytest.mark.parametrize(
    ("seeds", "told"), [([3], "3"), ([1, 2], "1, 2"), ([9, 0, 1, 2, 7], "0 to 2, 7, 9"), ([], "")]
)
def test_seeds_in_a_row_are_told_in_short(seeds: list[int], told: str) -> None:
    job = sweep(seeds=1)[0]
    assert seeds_listed([replace(job, seed=seed) for seed in seeds]) == told


def test_missing_curves_are_counted(tmp_path: Path) -> None:
    _, page = written(tmp_path, sweep(seeds=2))
    assert "All 30 jobs have a result. 30 of them left no curve to draw." in page.text
    assert len(page.labels()) == 1 + len(CELLS)


def test_a_bench_of_two_arms_and_one_without_jobs_are_reported(tmp_path: Path) -> None:
    markdown, _ = written(tmp_path, sweep(seeds=2, arms=("static", "lifecycle")))
    assert "| scenario | verdict | static, % | edits | seeds | why |" in markdown
    assert "- **Undecided: 3 of 3**" in markdown
    empty, _ = written(tmp_path, [])
    assert "All 0 jobs have a result." in empty


def test_figures_that_cannot_be_told_are_dashes(tmp_path: Path) -> None:
    nan = float("nan")
    results = [replace(r, metrics=dict.fromkeys(r.metrics, nan)) for r in sweep(seeds=2)]
    markdown, page = written(tmp_path, results)
    assert not re.search(r"\bnan\b|\binf\b", markdown + page.text, re.IGNORECASE)
    assert "no finite val_loss" in markdown


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(tmp_path: Path, value: str) -> None:
    honest = written(tmp_path, sweep(seeds=2))[1]
    results = [
        replace(
            r, scenario=value, variant=value, arm=value if r.arm == "yoked" else r.arm,
            folder=f"absent-{r.number}{value[:20]}".replace("\0", ""), reason=value,
            metrics=r.metrics | {f"edits/{value}": 1.0, f"val_loss/{value}": 1.0},
            status="failed" if r.arm == "loss_free" else r.status,
        )
        for r in sweep(seeds=2)[:10]
    ]  # fmt: skip
    verdicts = [replace(verdict, reason=value) for verdict in judge(results, RULES)]
    markdown, page = written(tmp_path, results, verdicts, value, (value,), {value: value})
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in honest.tags}
    known = {name for _, attributes in honest.tags for name in attributes}
    assert {name for _, attributes in page.tags for name in attributes} <= known
    assert not set(html + markdown) & set("\x1b\x07\x00\u202e\u2066")
    assert "\u2028" not in markdown
    outside = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", markdown)
    assert not re.search(r"(?<!\\)<[a-z/]", outside)
    assert all(line.count("|") > 2 for line in outside.splitlines() if line.startswith("|"))
    assert len(html) < 150_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("loss_free", "loss_free"),
        ("_x_ *y* `z`", r"\_x\_ \*y\* \`z\`"),
        ("[a](http://b)", r"\[a\](http\://b)"),
        ("www.a.b", r"www\.a.b"),
        ("a\\|b", r"a\\\|b"),
        ("two\nlines", "two lines"),
        ("<!-- x", "&lt;!-- x"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("# x", r"\# x"), ("- x", r"\- x"), ("12. x", r"12\. x"), ("1 x", "1 x")]
)
def test_text_opens_no_list_and_no_heading(text: str, shown: str) -> None:
    assert opened(text) == shown


def test_a_command_cannot_close_its_fence(tmp_path: Path) -> None:
    markdown, _ = written(tmp_path, [], commands=("a ``` b", "````"))
    assert markdown.endswith("\n`````\na ``` b\n````\n`````\n")


def test_the_page_asks_for_nothing_from_elsewhere(
    reports: tuple[str, Page], tmp_path: Path
) -> None:
    written(tmp_path, sweep(seeds=2))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html
    assert "script" not in {tag for tag, _ in reports[1].tags}
    assert all(reports[1].labels())
    headers = [attributes for tag, attributes in reports[1].tags if tag == "th"]
    assert all(attributes["scope"] == "col" for attributes in headers)


def test_links_lead_to_their_cells(reports: tuple[str, Page]) -> None:
    links = [a["href"] for tag, a in reports[1].tags if tag == "a"]
    ids = [f"#{a['id']}" for _, a in reports[1].tags if "id" in a]
    assert links == ids
    assert len(links) == len(CELLS)


def test_equal_inputs_give_equal_bytes_whatever_their_order(
    judged: tuple[list[JobResult], list[CellVerdict]], tmp_path: Path
) -> None:
    results, verdicts = judged
    write_logs(results, tmp_path)
    pages = []
    for order in (results, results[::-1]):
        written(tmp_path, order, verdicts)
        pages.append([(tmp_path / f"report.{end}").read_bytes() for end in ("md", "html")])
    assert pages[0] == pages[1]


def test_no_heavy_library_is_imported() -> None:
    code = (
        "import sys, chronorun.bench.report.write, chronorun.bench.report.screen\n"
        "import chronorun.bench.report.results_csv\n"
        "print(sorted({'torch', 'datasets', 'wandb', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
