"""The run's report: whole for every kind of run, harmless whatever the logs hold."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, SEED_RECORD, decision, small_run, write_log

from chronorun.analysis.reading.run import Run
from chronorun.analysis.report.page import write_report
from chronorun.errors import StorageError

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Reads a page and complains where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def labels(self) -> list[str]:
        return [
            attributes["aria-label"] or ""
            for tag, attributes in self.tags
            if tag == "svg" and attributes.get("role") == "img"
        ]


def report(folder: Path) -> Page:
    write_report(Run.open(folder), folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_a_run_is_shown_with_all_its_parts(tmp_path: Path) -> None:
    page = report(small_run(tmp_path / "small"))
    assert page.text.startswith("chronorun: small")
    for title in ("Losses", "Population", "Layers", "Lineage", "Decisions"):
        assert title in page.text
    assert page.labels() == [
        "Losses over steps, with 3 actions marked",
        "Live experts of each layer over steps",
        "Shares of 3 experts of layer 0 over steps",
        "Topology debt, pressure and lens scale of layer 0 over steps",
        "Lifelines of 3 experts of layer 0 over steps",
    ]
    assert "Lifecycle actions: 1 split, 1 merge and 1 rollback." in page.text
    assert "Of 1 judged by the probe, 0 lowered its loss; 1 did harm" in page.text


def test_a_decision_is_shown_with_its_receipt_and_what_came_of_it(tmp_path: Path) -> None:
    page = report(small_run(tmp_path / "small"))
    assert (
        "40 S SPLIT L0_E0 → L0_E2 overloaded predicted benefit −0.002 2 → 3 +0.050% 0.125 "
        "−0.0020 +0.0125 undone at step 80" in page.text
    )


def test_lives_are_told_in_words(tmp_path: Path) -> None:
    page = report(small_run(tmp_path / "small"))
    assert "L0_E1: merged into L0_E0 at step 60" in page.text
    assert "L0_E2: split off from L0_E0 at step 40, taken back at step 80" in page.text


def test_a_run_without_lifecycle_is_shown_without_decisions(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    for name in ("lifecycle_decisions", "lifecycle_evaluations"):
        (folder / f"{name}.jsonl").unlink()
    page = report(folder)
    assert "No lifecycle action changed the population." in page.text
    assert "Decisions" not in page.text
    assert "Lineage" not in page.text
    assert len(page.labels()) == 4


def test_the_published_record_alone_is_shown(tmp_path: Path) -> None:
    write_log(tmp_path / "run", "lifecycle_decisions", [SEED_RECORD])
    page = report(tmp_path / "run")
    assert "Run experiment_42 no summary" in page.text
    assert "15,000 N SPAWN L2_E3 → L2_E9 sustained starvation" in page.text
    assert "L2_E9: spawned from L2_E3 at step 15000" in page.text
    assert page.labels() == ["Lifelines of 2 experts of layer 2 over steps"]


def test_what_a_runs_end_left_undone_is_counted_apart(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    path = folder / "lifecycle_decisions.jsonl"
    waiting = decision(3, 100, "SPAWN", "L0_E3", parent_id="L0_E0", integrated_step=None)
    waiting |= {"experts_before": ["L0_E0"], "experts_after": ["L0_E0"]}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_log(folder, "lifecycle_decisions", [*records, waiting])
    text = report(folder).text
    done = "Lifecycle actions: 1 split, 1 merge and 1 rollback."
    assert f"{done} 1 decided and not carried out: the run ended." in text
    assert "actions 3 1 split, 1 merge, 1 rollback, 1 spawn (not carried out)" in text
    assert "N spawn (not carried out)" in text
    assert text.count("not carried out: the run ended") == 2
    assert "spawned from" not in text


def test_a_dry_run_says_what_it_would_have_done(tmp_path: Path) -> None:
    records = [decision(0, 40, "PRUNE", "L0_E1", dry_run=True, integrated_step=None)]
    write_log(tmp_path / "run", "lifecycle_decisions", records)
    page = report(tmp_path / "run")
    assert "A dry run: the lifecycle would have made 1 edits, and made none." in page.text
    assert "P would PRUNE" in page.text
    assert page.labels() == []


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_did_not_end_well_says_so(tmp_path: Path, status: str) -> None:
    folder = small_run(tmp_path / "small", checkpoints=3)
    (folder / "summary.json").write_text(json.dumps({"run_id": "small", "status": status}))
    assert f"Run small {status}" in report(folder).text


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_a_very_short_run_is_shown(tmp_path: Path, checkpoints: int) -> None:
    folder = small_run(tmp_path / "small", checkpoints=checkpoints)
    (folder / "lifecycle_decisions.jsonl").write_text("")
    assert report(folder).text.startswith("chronorun: small")


def test_a_torn_last_line_is_noted(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "train')
    assert "metrics.jsonl line 11 is torn and was skipped" in report(folder).text


def test_a_bad_line_is_named_and_leaves_an_older_report_alone(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    report(folder)
    old = (folder / "report.html").read_bytes()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("no JSON\n{}\n")
    with pytest.raises(StorageError, match=r"metrics\.jsonl line 11 is not JSON"):
        write_report(Run.open(folder), folder / "report.html")
    assert (folder / "report.html").read_bytes() == old


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(tmp_path: Path, value: str) -> None:
    folder = small_run(tmp_path / "small")
    honest = report(folder)
    names = ("run_id", "action", "expert_id", "parent_id", "reason")
    record = SEED_RECORD | dict.fromkeys(names, value)
    record["metrics_at_decision"] = {value: value, "share": value}
    record |= {"layer_id": 0, "partner_id": value}
    write_log(folder, "lifecycle_decisions", [record, record | {"action": "MERGE"}])
    write_log(folder, "scenario_events", [{"step": 5, "scenario": value, "event": value}])
    named = {"run_id": value, "status": value, "dataset": value, "git_commit": value}
    (folder / "run_manifest.json").write_text(json.dumps(named))
    (folder / "summary.json").write_text(json.dumps(named))
    page = report(folder)
    written = (folder / "report.html").read_text(encoding="utf-8")
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in honest.tags}
    known = {name for _, attributes in honest.tags for name in attributes}
    assert {name for _, attributes in page.tags for name in attributes} <= known | {"title"}
    assert not set(written) & set("\x1b\x07\x00\u202e\u2066")
    assert len(written) < 60_000


WRONG: list[Any] = [
    None, True, -1, 1.5, 1e300, -(2**63), 2**70, "9", [], {}, [[]], [{}], {"a": {}}, "nan",
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_values_of_another_type_are_passed_over(tmp_path: Path, value: Any) -> None:
    folder = small_run(tmp_path / "small")
    for name in ("snapshots", "metrics", "control_decisions", "lifecycle_decisions"):
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for key in list(records[-1]):
            records.append(records[-2] | {key: value})
        for key in ("utilization_shares", "expert_ids", "layer_id"):
            if name == "snapshots":
                layer = records[0]["layers"][0] | {key: value}
                records.append(records[0] | {"layers": [layer, value]})
        write_log(folder, name, records)
    judgements = [{"seq": value, "realised_benefit": 0.1}, {"seq": 0, "realised_benefit": value}]
    evaluations = [{"judgements": value}, {"judgements": [*judgements, value]}]
    write_log(folder, "lifecycle_evaluations", evaluations)
    (folder / "summary.json").write_text(json.dumps(dict.fromkeys(("steps", "val_loss"), value)))
    (folder / "run_manifest.json").write_text(json.dumps({"architecture": value, "seed": value}))
    assert "Decisions" in report(folder).text


def test_numbers_that_json_does_not_have_are_passed_over(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "small")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "train/loss": NaN, "val/loss": Infinity}\n')
    text = report(folder).text
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()


def test_a_long_run_gives_a_small_report(tmp_path: Path) -> None:
    ids = [f"L0_E{i}" for i in range(64)]
    rows, losses, control = [], [], []
    for i in range(5000):
        shares = [((i * 7 + k * 13) % 101 + 1) / 6464 for k in range(64)]
        layer = {"layer_id": 0, "utilization_shares": shares, "expert_ids": ids}
        rows.append({"step": i, "layers": [layer]})
        losses.append({"step": i, "train/loss": 50.0 if i == 3333 else 2.0 + 1 / (i + 1)})
        control.append({"step": i, "layer_id": 0, "computed": {"debt": i % 7 / 7}})
    write_log(tmp_path / "run", "snapshots", rows)
    write_log(tmp_path / "run", "metrics", losses)
    write_log(tmp_path / "run", "control_decisions", control)
    edits = [decision(i, i, "PRUNE", f"L0_E{i % 64}") for i in range(3000)]
    write_log(tmp_path / "run", "lifecycle_decisions", edits)
    page = report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").stat().st_size < 600_000
    assert "… 2600 more in the log …" in page.text
    assert "16 experts without a row" in page.text


def test_many_layers_are_drawn_where_most_happened(tmp_path: Path) -> None:
    layers = [{"layer_id": i, "utilization_shares": [0.5, 0.5]} for i in range(40)]
    write_log(tmp_path / "run", "snapshots", [{"step": 10, "layers": layers}])
    edits = [decision(0, 10, "PRUNE", "L33_E1", layer_id=33)]
    write_log(tmp_path / "run", "lifecycle_decisions", edits)
    page = report(tmp_path / "run")
    assert "40 layers were logged; 16 are drawn" in page.text
    assert "Shares of 2 experts of layer 33 over steps" in page.labels()


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = report(small_run(tmp_path / "small"))
    text = (tmp_path / "small" / "report.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "script" not in {tag for tag, _ in page.tags}


def test_every_table_has_headers_and_every_picture_a_label(tmp_path: Path) -> None:
    page = report(small_run(tmp_path / "small"))
    headers = [attributes for tag, attributes in page.tags if tag == "th"]
    assert len(headers) == 10
    assert all(attributes["scope"] == "col" for attributes in headers)
    assert all(page.labels())


def test_equal_logs_give_equal_reports(tmp_path: Path) -> None:
    report(small_run(tmp_path / "small"))
    first = (tmp_path / "small" / "report.html").read_bytes()
    report(tmp_path / "small")
    assert (tmp_path / "small" / "report.html").read_bytes() == first


@pytest.mark.parametrize("module", ["page", "plots"])
def test_no_heavy_library_is_imported(tmp_path: Path, module: str) -> None:
    folder = small_run(tmp_path / "small")
    call = {
        "page": f"page.write_report(run, Path({str(folder / 'report.html')!r}))",
        "plots": f"plots.write_plot(run, Path({str(folder / 'plot.png')!r}))",
    }[module]
    code = (
        f"import sys; from pathlib import Path; from chronorun.analysis.report import {module}\n"
        f"from chronorun.analysis.reading.run import Run\n"
        f"before = set(sys.modules); run = Run.open(Path({str(folder)!r})); {call}\n"
        f"heavy = {{'torch', 'datasets', 'wandb', 'matplotlib.pyplot'}}\n"
        f"print(sorted(heavy & set(sys.modules)), 'matplotlib' in before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
