from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len
from tracker_fakes import screen

from chronorun.config.compose import compose_run
from chronorun.tracking.summary import next_commands, render_summary, summary_rows

SUMMARY: dict[str, Any] = {
    "run_id": "fake",
    "status": "completed",
    "steps": 500,
    "tokens": 1_024_000,
    "train_loss": 1.75,
    "val_loss": 1.8,
    "val_loss_per_byte": 1.8,
    "bigram_loss": 2.5,
    "bigram_loss_per_byte": 2.5,
    "val_loss_by_domain": {"prose": 1.9, "code": 1.7},
    "tokens_per_second": 7890.4,
    "parameters": {"total": 1_234_567, "active": 456_789},
    "population": {"0": 9, "1": 8},
    "lifecycle": {"SPAWN": 2, "PRUNE": 1, "SPLIT": 0, "MERGE": 0, "REVIVE": 0, "ROLLBACK": 0},
    "alerts_total": 3,
    "wall_seconds": 141.24,
    "run_dir": "outputs/fake",
}


def shown(summary: dict[str, Any], start: dict[str, int] | None = None) -> list[str]:
    console, text = screen()
    console.print(render_summary(summary, start), crop=False)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_run_ends_with_table_folder_and_next_commands() -> None:
    assert shown(SUMMARY, {"0": 8, "1": 8}) == [
        "",
        "status           completed, 500 steps, 1,024,000 tokens",
        "validation loss  1.8000 nats/byte",
        "bigram baseline  2.5000 nats/byte; this run is 0.7000 below",
        "by domain        prose 1.9000  code 1.7000 (nats/token)",
        "training loss    1.7500 nats/token",
        "parameters       1,234,567, 456,789 active per token",
        "experts          L0 8->9  L1 8",
        "lifecycle        SPAWN 2  PRUNE 1",
        "alerts           3",
        "speed            7,890 tokens/s",
        "time             141.2 s",
        "folder           outputs/fake",
        "",
        "next:",
        '  chronorun sample outputs/fake --prompt "def "',
        "  chronorun train router=loss_free",
        "  chronorun train scenario=collapse scenario.severity=severe",
    ]


def test_the_baseline_is_put_per_byte_by_the_runs_own_ratio() -> None:
    bpe = {"val_loss": 6.0, "val_loss_per_byte": 1.5, "bigram_loss": 8.0}
    assert dict(summary_rows(bpe))["bigram baseline"] == (
        "2.0000 nats/byte; this run is 0.5000 below"
    )


def test_a_failed_run_shows_what_there_is() -> None:
    nan = float("nan")
    failed = {"run_id": "x", "status": "failed", "train_loss": nan, "val_loss": nan}
    assert shown(failed | {"run_dir": "outputs/x"}) == [
        "",
        "status           failed",
        "folder           outputs/x",
    ]


def test_an_interrupted_run_says_how_to_go_on() -> None:
    interrupted = {"status": "interrupted", "run_dir": "outputs/two words"}
    assert next_commands(interrupted) == ["chronorun train resume='outputs/two words'"]


@given(st.fixed_dictionaries({}, optional={key: st.none() | st.just("?") for key in SUMMARY}))
def test_missing_and_odd_values_do_no_harm(odd: dict[str, Any]) -> None:
    assert shown(odd)
    assert shown(SUMMARY | odd)


def test_long_values_fold_inside_80_columns_and_paths_stay_whole() -> None:
    folder = "outputs/" + "n" * 200
    many = {
        "population": {str(layer): 128 for layer in range(40)},
        "val_loss_by_domain": {"[b]" + "d" * 150 + "\x1b": 1.0},
    }
    lines = shown(SUMMARY | many | {"run_dir": folder})
    wide = [line for line in lines if cell_len(line) > 80]
    assert wide == [f"folder           {folder}", f'  chronorun sample {folder} --prompt "def "']
    assert not any("\x1b" in line for line in lines)


def test_a_long_folder_is_named_by_the_link_to_the_newest_run(tmp_path: Path) -> None:
    run = tmp_path / ("n" * 60)
    run.mkdir()
    (tmp_path / "run").symlink_to(run.name)
    first, *_ = next_commands(SUMMARY | {"run_dir": str(run)})
    assert first == f'chronorun sample {tmp_path / "run"} --prompt "def "'


@pytest.mark.parametrize("command", [c for c in next_commands(SUMMARY) if " train " in c])
def test_the_suggested_training_commands_compose(command: str) -> None:
    compose_run(command.split()[2:], None)


def test_many_domains_are_counted_instead_of_listed() -> None:
    losses = {f"note{number}.txt": 2.0 for number in range(200)}
    domains = dict(summary_rows(SUMMARY | {"val_loss_by_domain": losses}))["by domain"]
    assert domains.startswith("note0.txt 2.0000  note1.txt 2.0000  ")
    assert domains.endswith("note7.txt 2.0000  and 192 more in summary.json (nats/token)")
