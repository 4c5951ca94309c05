"""``chronorun train``: where a run goes, what is refused, what is warned about."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chronorun.errors import UserError

pytest_plugins = ("cli_in_process",)

Run = Callable[..., Any]


def test_a_run_goes_into_the_folder_of_its_id(chronorun_here: Run, training: Any) -> None:
    assert chronorun_here("train", "run_id=first", "model=nano").code == 0
    config, composed, run_dir = training.runs[0]
    assert (config.run_id, composed.run_id, run_dir) == ("first", "first", Path("outputs/first"))
    saved = yaml.safe_load(Path("outputs/first/.hydra/overrides.yaml").read_text("utf-8"))
    assert saved == ["run_id=first", "model=nano"]


def test_two_runs_of_one_second_get_different_folders(chronorun_here: Run, training: Any) -> None:
    for _ in range(2):
        assert chronorun_here("train").code == 0
    (one, _, first), (other, _, second) = training.runs
    assert first != second
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", one.run_id)
    assert (first, second) == (Path("outputs") / one.run_id, Path("outputs") / other.run_id)


def test_a_numeric_run_id_stays_text(chronorun_here: Run, training: Any) -> None:
    for name in ("007", "1e3"):
        assert chronorun_here("train", f"run_id={name}").code == 0
    assert [run_dir.name for _, _, run_dir in training.runs] == ["007", "1e3"]


@pytest.mark.parametrize(
    "name",
    ["run", "bench", "Multirun", "..", "../x", "a/b", "/tmp/x", "'a\tb'", "-x", "'a b'", ".x"],
)
def test_a_run_id_that_is_reserved_or_no_plain_name_is_refused(
    chronorun_here: Run, training: Any, tmp_path: Path, name: str
) -> None:
    done = chronorun_here("train", f"run_id={name}")
    assert done.code == 2
    assert done.err.startswith("chronorun: error: configuration: run_id=")
    assert done.err.endswith(
        "expected letters, digits and . _ - + (not run, bench, multirun; at most 150 characters); "
        "choose another name\n"
    )
    assert training.runs == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_run_id_is_refused(chronorun_here: Run) -> None:
    done = chronorun_here("train", "run_id=")
    assert (done.code, done.err) == (
        2,
        "chronorun: error: configuration: run_id is empty, expected a name; "
        "drop run_id for a fresh one\n",
    )


@pytest.mark.parametrize(
    ("flags", "folder"), [((), "outputs/taken"), (("-m",), "outputs/multirun/taken")]
)
def test_an_existing_folder_is_refused(
    chronorun_here: Run, training: Any, flags: tuple[str, ...], folder: str
) -> None:
    Path(folder).mkdir(parents=True)
    done = chronorun_here("train", "run_id=taken", *flags)
    assert (done.code, done.err) == (
        2,
        f"chronorun: error: run folder: {folder} exists already, expected a new run_id; "
        "add resume=auto to continue it, or choose another run_id\n",
    )
    assert training.runs == []
    assert list(Path(folder).iterdir()) == []


def test_a_mistake_found_before_anything_was_written_leaves_the_run_id_free(
    chronorun_here: Run, training: Any
) -> None:
    training.errors = [UserError("data: files=nope.txt does not exist")]
    assert chronorun_here("train", "run_id=a").code == 2
    assert not Path("outputs/a").exists()
    assert chronorun_here("train", "run_id=a").code == 0


def test_a_single_file_is_a_list_of_one(chronorun_here: Run, training: Any) -> None:
    for value in ("book.txt", "my book.txt", "[book.txt]"):
        assert chronorun_here("train", "data=text", f"data.files={value}").code == 0
    assert [config.data.files for config, _, _ in training.runs] == [
        ["book.txt"],
        ["my book.txt"],
        ["book.txt"],
    ]


def test_an_option_without_effect_is_warned_about(chronorun_here: Run, training: Any) -> None:
    done = chronorun_here("train", "tokenizer.vocab_size=300", "router.bias_update_rate=0.1")
    assert done.code == 0
    assert done.err == (
        "chronorun: warning: tokenizer.vocab_size has no effect: the byte tokenizer always has "
        "256 tokens; add tokenizer=bpe\n"
        "chronorun: warning: router.bias_update_rate has no effect: balancing is not loss-free; "
        "add router=loss_free\n"
    )
    done = chronorun_here("train", "tokenizer=bpe", "tokenizer.vocab_size=300")
    assert done.err == ""


def test_a_whole_sweep_is_checked_before_its_first_job(chronorun_here: Run, training: Any) -> None:
    done = chronorun_here("train", "-m", "model.num_experts=8,4", "model.top_k=2,8")
    assert (done.code, done.err) == (
        2,
        "chronorun: error: configuration: model.top_k=8, expected <= model.num_experts=4; "
        "lower top_k or add experts\n",
    )
    assert training.runs == []


def test_hydras_own_launcher_is_suggested(chronorun_here: Run) -> None:
    done = chronorun_here("train", "-m", "seed=1,2", "hydra/launcher=basi")
    assert done.code == 2
    assert done.err.startswith(
        "chronorun: error: configuration: hydra/launcher=basi, expected one of basic"
    )
    assert done.err.endswith("; did you mean basic?\n")
