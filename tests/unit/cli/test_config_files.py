"""Configuration files of the user's own: complete ones work, wrong ones are told file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_in_process import FakeTraining, Outcome

pytest_plugins = ("cli_in_process",)
Command = Callable[..., Outcome]


def put(folder: Path, content: str | bytes, name: str = "mine/exp.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_cfg_job_prints_is_a_configuration(
    chronorun_here: Command, training: FakeTraining, tmp_path: Path
) -> None:
    put(tmp_path, chronorun_here("train", "--cfg", "job", "model=nano", "seed=7").out)
    done = chronorun_here("train", "-cd", "mine", "-cn", "exp", "run_id=r")
    assert (done.code, done.err) == (0, "")
    config = training.runs[-1][0]
    assert (config.model.d_model, config.seed, config.run_id) == (64, 7, "r")


def test_a_group_on_the_command_line_wins_over_a_complete_root(
    chronorun_here: Command, training: FakeTraining, tmp_path: Path
) -> None:
    put(tmp_path, chronorun_here("train", "--cfg", "job", "model=nano").out)
    done = chronorun_here("train", "-cd", "mine", "-cn", "exp", "router=loss_free", "run_id=r")
    assert done.code == 0, done.err
    config = training.runs[-1][0]
    assert (config.router.loss_free, config.model.d_model) == (True, 64)


def test_a_root_of_a_few_values_is_laid_over_ours(
    chronorun_here: Command, training: FakeTraining, tmp_path: Path
) -> None:
    put(tmp_path, "seed: 3\ntraining:\n  max_steps: 9\n")
    assert chronorun_here("train", "-cd", "mine", "-cn", "exp", "run_id=r").code == 0
    config = training.runs[-1][0]
    assert (config.seed, config.training.max_steps, config.model.d_model) == (3, 9, 128)


def test_an_unknown_key_of_a_root_is_named(chronorun_here: Command, tmp_path: Path) -> None:
    put(tmp_path, "sed: 3\n")
    done = chronorun_here("train", "-cd", "mine", "-cn", "exp", "run_id=r")
    assert done.code == 2
    assert "sed" in done.err
    assert "unexpected" not in done.err


WRONG = {
    "tab": ("seed: 1\ntraining:\n\tmax_steps: 3\n", "line 3"),
    "bracket": ("seed: 1\nmodel: [1, 2\n", "line 3"),
    "binary": (b"\x00\x01\x02", "line 1: character"),
    "latin": (b"# ok\nrun_id: caf\xe9\n", "line 2: byte 0xe9, expected UTF-8 text"),
    "list": ("- seed\n", "line 1: a list, expected keys and values, such as seed: 1"),
    "empty": ("# nothing\n", "line 1: empty, expected keys and values"),
    "twice": ("seed: 1\nseed: 2\n", "line 2"),
    "defaults": ("seed: 1\ndefaults: train\n", "line 2: defaults is no list"),
    "package": ("# @package\nseed: 1\n", "line 1: # @package, expected # @package NAME"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_yaml_is_told_with_file_and_line(
    chronorun_here: Command, tmp_path: Path, case: str
) -> None:
    content, message = WRONG[case]
    put(tmp_path, content)
    done = chronorun_here("train", "-cd", "mine", "-cn", "exp", "run_id=r")
    assert done.code == 2, done.err
    assert "mine/exp.yaml" in done.err
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert "unexpected" not in done.err


def test_a_byte_order_mark_before_a_package_says_nothing(
    chronorun_here: Command, training: FakeTraining, tmp_path: Path
) -> None:
    put(
        tmp_path,
        b"\xef\xbb\xbf# @package _global_\ntraining:\n  max_steps: 5\n",
        "mine/experiment/my.yaml",
    )
    done = chronorun_here("train", "-cd", "mine", "experiment=my", "run_id=r")
    assert done.code == 0, done.err
    assert training.runs[-1][0].training.max_steps == 5


@pytest.mark.parametrize(
    "override",
    [
        "seed=18446744073709551616",
        "training.batch_size=99999999999999999999",
        "model.d_model=1000000000000",
        "training.threads=10000000",
        "data.synthetic_domains=100000",
    ],
)
def test_a_number_that_nothing_can_hold_is_refused(
    chronorun_here: Command, training: FakeTraining, override: str
) -> None:
    done = chronorun_here("train", override, "run_id=r")
    assert done.code == 2, done.err
    assert f"{override.partition('=')[0]}=" in done.err
    assert "expected" in done.err
    assert training.runs == []
