"""Every flag of Hydra's works after ``chronorun train``, in every position."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode

from chronorun.errors import NonFiniteError, RunInterrupted

pytest_plugins = ("cli_in_process",)

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--multirun", "seed=1,2", "model=nano"),
        *(
            pytest.param(arguments, marks=pytest.mark.whole)
            for arguments in (
                ("seed=1,2", "--multirun", "model=nano"),
                ("seed=1,2", "model=nano", "-m"),
                ("seed=choice(1,2)", "model=nano", "-m"),
            )
        ),
        ("seed=range(1,3)", "model=nano", "-m"),
        ("seed=1,2", "model=nano", "hydra.mode=MULTIRUN"),
    ],
)
def test_multirun_runs_each_job_wherever_the_flag_stands(
    chronorun_here: Run, training: Any, arguments: tuple[str, ...]
) -> None:
    assert chronorun_here("train", *arguments).code == 0
    assert [config.seed for config, _, _ in training.runs] == [1, 2]
    assert {config.model.n_layers for config, _, _ in training.runs} == {2}


def test_a_run_is_composed_once_to_be_checked_and_once_by_hydra(
    chronorun_here: Run, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose, calls = ConfigLoaderImpl.load_configuration, []

    def counted(self: ConfigLoaderImpl, **given: Any) -> Any:
        calls.append(given["run_mode"])
        return compose(self, **given)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert chronorun_here("train", "model=nano").code == 0
    assert len(training.runs) == 1
    assert calls == [RunMode.RUN, RunMode.RUN]


def test_a_job_of_a_sweep_has_a_folder_named_after_what_differs(
    chronorun_here: Run, training: Any
) -> None:
    done = chronorun_here("train", "-m", "run_id=sw", "seed=1,2", "model=nano", "router=topk,noisy")
    assert done.code == 0
    names = ["0-router-topk_seed-1", "1-router-noisy_seed-1"]
    names += ["2-router-topk_seed-2", "3-router-noisy_seed-2"]
    assert [run_dir for _, _, run_dir in training.runs] == [
        Path("outputs/multirun/sw") / name for name in names
    ]
    assert [config.run_id for config, _, _ in training.runs] == [f"sw-{name}" for name in names]
    assert "sweep: Launching 4 jobs locally" in done.err


@pytest.mark.parametrize(
    "arguments",
    [("--cfg", "job", "model=nano"), ("model=nano", "--cfg", "job"), ("model=nano", "-c", "job")],
)
def test_cfg_shows_the_config_and_trains_nothing(
    chronorun_here: Run, training: Any, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = chronorun_here("train", *arguments)
    assert done.code == 0
    shown = yaml.safe_load(done.out)
    assert shown["model"]["d_model"] == 64
    assert shown["router"]["gate_order"] == "auto"
    assert training.runs == []
    assert list(tmp_path.iterdir()) == []


def test_package_and_resolve_narrow_and_fill_in_what_cfg_shows(chronorun_here: Run) -> None:
    done = chronorun_here(
        "train", "--resolve", "-p", "model", "model.d_ff=${model.d_model}", "-c", "job"
    )
    assert yaml.safe_load(done.out)["d_ff"] == 128
    done = chronorun_here("train", "--cfg", "job", "--package", "modle")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "chronorun: error: command line: --package=modle, expected a key with a value; "
        "did you mean model?\n"
    )


@pytest.mark.parametrize("page", [(), ("all",), ("defaults",), ("searchpath",), ("plugins",)])
def test_info_shows_its_page(chronorun_here: Run, training: Any, page: tuple[str, ...]) -> None:
    done = chronorun_here("train", "--info", *page, "model=nano")
    assert done.code == 0, done.err
    assert done.out.strip()
    assert training.runs == []


def test_config_dir_adds_options_of_the_users_own(
    chronorun_here: Run, training: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/wee.yaml").write_text("n_layers: 1\n", encoding="utf-8")
    for flag in ("-cd", "--config-dir"):
        assert chronorun_here("train", "model=wee", flag, "mine").code == 0
    assert [config.model.n_layers for config, _, _ in training.runs] == [1, 1]
    done = chronorun_here("train", "-cd", "mine", "model=we")
    assert done.err == (
        "chronorun: error: command line: model=we, expected one of large, medium, nano, small, "
        "tiny, wee; did you mean wee?\n"
    )


def test_config_name_starts_from_another_root_file(
    chronorun_here: Run, training: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my.yaml").write_text("defaults: [train, _self_]\nseed: 7\n", encoding="utf-8")
    assert chronorun_here("train", "-cn", "my", "-cd", "mine").code == 0
    assert training.runs[0][0].seed == 7


def test_an_unknown_key_in_a_config_file_is_named(chronorun_here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/wee.yaml").write_text("n_layer: 1\n", encoding="utf-8")
    done = chronorun_here("train", "-cd", "mine", "model=wee")
    assert (done.code, done.err) == (
        2,
        "chronorun: error: configuration: model.n_layer (in a config file), expected a known key; "
        "did you mean model.n_layers?\n",
    )


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+hydra.callbacks.x={_target_: os.mkdir, path: called}", "hydra.callbacks.x._target_"),
        (
            "+hydra.callbacks.x='${oc.decode:\"{_target_: os.mkdir}\"}'",
            "hydra.callbacks.x._target_",
        ),
        ("+hydra.callbacks.x.y=[{_target_: os.mkdir}]", "hydra.callbacks.x.y[0]._target_"),
        ("hydra.launcher._target_=os.mkdir", "hydra.launcher._target_"),
        ("+hydra.sweeper.x._target_=os.mkdir", "hydra.sweeper.x._target_"),
        ("+hydra.job_logging.handlers.x.class=os.mkdir", "hydra.job_logging.handlers.x.class"),
        ("hydra/callbacks=mine", "hydra.callbacks.x._target_"),
    ],
)
def test_nothing_that_a_configuration_names_is_called(
    chronorun_here: Run, training: Any, tmp_path: Path, override: str, named: str
) -> None:
    (tmp_path / "conf/hydra/callbacks").mkdir(parents=True)
    file = tmp_path / "conf/hydra/callbacks/mine.yaml"
    file.write_text("x: {_target_: os.mkdir, path: called}\n", encoding="utf-8")
    done = chronorun_here("train", "-cd", "conf", override)
    assert (done.code, done.err) == (
        2,
        f"chronorun: error: configuration: {named}=os.mkdir, expected nothing that is called: only "
        f"installed launchers and sweepers are, as hydra/launcher=NAME; drop it\n",
    )
    assert training.runs == []
    assert not [*tmp_path.rglob("called"), *tmp_path.rglob("outputs")]


def test_experimental_rerun_trains_again_in_a_fresh_folder(
    chronorun_here: Run, training: Any
) -> None:
    callback = "hydra.experimental.callbacks.PickleJobInfoCallback"
    done = chronorun_here("train", "run_id=a", "seed=5", f"+hydra.callbacks.p._target_={callback}")
    assert done.code == 0, done.err
    assert (
        chronorun_here("train", "--experimental-rerun", "outputs/a/.hydra/config.pickle").code == 0
    )
    (_, _, first), (config, _, second) = training.runs
    assert (config.seed, config.run_id) == (5, second.name)
    assert first != second


def test_experimental_rerun_refuses_what_hydra_did_not_pickle(
    chronorun_here: Run, tmp_path: Path
) -> None:
    (tmp_path / "config.pickle").write_text("seed: 1\n", encoding="utf-8")
    done = chronorun_here("train", "--experimental-rerun", "config.pickle")
    assert (done.code, done.err) == (
        3,
        "chronorun: error: rerun: config.pickle is not a configuration pickled by Hydra "
        "(UnpicklingError); name a run's config.pickle\n",
    )
    (tmp_path / "other.pickle").write_bytes(pickle.dumps({"seed": 1}))
    assert chronorun_here("train", "--experimental-rerun", "other.pickle").code == 3


def test_hydra_help_is_hydras_and_help_is_ours(chronorun_here: Run) -> None:
    done = chronorun_here("train", "--hydra-help")
    assert done.code == 0
    assert done.out.startswith("Hydra (1.3")
    assert chronorun_here("train", "model=nano", "-h").out.startswith("Usage: chronorun train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--multirn", "seed=1"),
            "unrecognized arguments: --multirn; did you mean --multirun?",
        ),
        (("--cfg", "job", "--info"), "--cfg and --info given, expected one; drop the others"),
        (("--resolve",), "--resolve or --package given, expected --cfg; add --cfg job"),
        (("-cd", "nowhere"), "--config-dir=nowhere, expected a folder; correct the path"),
        (
            ("--experimental-rerun", "nowhere"),
            "--experimental-rerun=nowhere, expected a file; correct it",
        ),
    ],
)
def test_a_wrong_flag_gets_one_line(
    chronorun_here: Run, arguments: tuple[str, ...], message: str
) -> None:
    done = chronorun_here("train", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"chronorun: error: command line: {message}\n"


def test_a_jobs_error_reaches_main_as_it_was_raised(chronorun_here: Run, training: Any) -> None:
    training.errors = [NonFiniteError("training: loss is not finite")]
    done = chronorun_here("train", "model=nano")
    assert (done.code, done.out, done.err) == (
        4,
        "",
        "chronorun: error: training: loss is not finite\n",
    )


def test_a_sweep_goes_on_after_a_failing_job_and_fails_at_the_end(
    chronorun_here: Run, training: Any
) -> None:
    training.errors = [NonFiniteError("training: loss is not finite"), None]
    done = chronorun_here("train", "-m", "seed=1,2", "run_id=sw")
    assert done.code == 4
    assert len(training.runs) == 2
    lines = [line for line in done.err.splitlines() if line.startswith("chronorun")]
    assert lines == [
        "chronorun: warning: job outputs/multirun/sw/0-seed-1 failed: training: loss is not finite",
        "chronorun: error: training: loss is not finite",
    ]


def test_an_interrupted_sweep_starts_no_further_job(chronorun_here: Run, training: Any) -> None:
    training.errors = [RunInterrupted("interrupted after step 3", 15)]
    done = chronorun_here("train", "-m", "seed=1,2")
    assert done.code == 143
    assert len(training.runs) == 1
    assert done.err.splitlines()[-1] == "chronorun: error: interrupted after step 3"


def test_hydra_leaves_no_log_handlers_behind(chronorun_here: Run, training: Any) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    during: list[list[logging.Handler]] = []
    training.runs = _Spy(lambda: during.append(list(logging.getLogger().handlers)))
    assert chronorun_here("train", "-m", "seed=1,2").code == 0
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
    assert all(len(handlers) == 1 for handlers in during)
    assert all(handler.stream is None for handlers in during for handler in handlers)  # type: ignore[attr-defined]


class _Spy(list[Any]):
    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def append(self, item: Any) -> None:
        self.look()
        super().append(item)
