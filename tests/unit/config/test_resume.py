"""``resume=``: which folder, which overrides, and what may not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from chronorun.config.resume import run_folder_of

pytest_plugins = ("cli_in_process",)

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the outputs of the first run are kept: begun once, copied by each test."""
    return tmp_path_factory.mktemp("begun") / "outputs"


@pytest.fixture
def stopped(chronorun_here: Run, training: Any, begun: Path) -> Path:
    """A run with a checkpoint, as the training would have left it."""
    if not begun.exists():
        assert chronorun_here("train", "run_id=a", "model=nano", "seed=3").code == 0
        leave_behind(training)
        shutil.copytree("outputs", begun, symlinks=True)
    else:
        shutil.copytree(begun, "outputs", symlinks=True)
    return Path("outputs/a")


def leave_behind(training: Any) -> Path:
    _, composed, run_dir = training.runs.pop()
    OmegaConf.save(composed, run_dir / "config.yaml", resolve=False)
    checkpoint = run_dir / "checkpoints" / "step_00000020"
    checkpoint.mkdir(parents=True)
    (checkpoint / "MANIFEST.json").write_text("{}", encoding="utf-8")
    link = run_dir.parent / "run"
    link.unlink(missing_ok=True)
    link.symlink_to(run_dir.name)
    return Path(run_dir)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run_id=a", "resume=auto"),
        ("resume=auto", "run_id=a", "model=nano", "seed=3"),
        ("resume=outputs/a",),
        ("resume=outputs/a/",),
        ("resume=outputs/run",),
        ("resume=outputs/a/checkpoints/step_00000020",),
        ("resume=outputs/a", "run_id=a"),
    ],
)
def test_a_resumed_run_keeps_its_folder_and_its_overrides(
    chronorun_here: Run, training: Any, stopped: Path, arguments: tuple[str, ...]
) -> None:
    done = chronorun_here("train", *arguments, "training.max_steps=700", "tracking.progress=false")
    assert done.code == 0, done.err
    config, _, run_dir = training.runs[0]
    assert run_dir == stopped
    assert (config.seed, config.model.n_layers, config.run_id) == (3, 2, "a")
    assert config.training.max_steps == 700
    assert config.resume == next(a for a in arguments if a.startswith("resume="))[7:]


def test_a_second_resume_still_knows_the_first_overrides(
    chronorun_here: Run, training: Any, stopped: Path
) -> None:
    for _ in range(2):
        assert chronorun_here("train", "resume=outputs/a", "training.max_steps=700").code == 0
    assert [config.seed for config, _, _ in training.runs] == [3, 3]


@pytest.mark.parametrize("flags", [(), pytest.param(("-cd", "mine"), marks=pytest.mark.whole)])
def test_a_run_from_files_of_the_users_goes_on_from_its_own_configuration(
    chronorun_here: Run, training: Any, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    option = tmp_path / "mine" / "experiment" / "wide.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("# @package _global_\nmodel: {d_ff: 40}\ntraining: {max_steps: 9}\n")
    begun = ("-cd", "mine", "experiment=wide", "model=nano", "run_id=a")
    assert chronorun_here("train", *begun).code == 0
    leave_behind(training)
    assert chronorun_here("train", *flags, "resume=outputs/a").code == 0
    # Hydra has written the second command's overrides over the first ones.
    done = chronorun_here("train", "-cd", "mine", "resume=outputs/a", "training.max_steps=10")
    assert done.code == 0, done.err
    first, second = (config for config, _, _ in training.runs)
    assert (first.model.d_ff, first.training.max_steps, first.run_id) == (40, 9, "a")
    assert (second.model, second.training.max_steps) == (first.model, 10)


def test_a_folder_named_by_the_users_pattern_is_continued(
    chronorun_here: Run, training: Any
) -> None:
    pattern = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    assert chronorun_here("train", "-m", "model=nano", "seed=1,2", pattern, "run_id=m").code == 0
    folder = leave_behind(training)
    training.runs.clear()
    assert folder.name == "seed=2"
    done = chronorun_here("train", f"resume='{folder}'")
    assert done.code == 0, done.err
    ((config, _, run_dir),) = training.runs
    assert (config.seed, config.run_id, run_dir) == (2, "m-seed-2", folder)


def test_an_absolute_path_and_another_working_folder_continue_the_same_run(
    chronorun_here: Run,
    training: Any,
    stopped: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert chronorun_here("train", f"resume={tmp_path / stopped}").code == 0
    assert training.runs[0][2] == tmp_path / stopped


@pytest.mark.parametrize(
    "how", ["resume=auto", pytest.param("resume=outputs/a", marks=pytest.mark.whole)]
)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.top_k=1", "model.top_k=1, expected 2"),
        ("seed=4", "seed=4, expected 3"),
        ("model=tiny", "model.context_length=128, expected 64"),
        ("optimizer.schedule=constant", "optimizer.schedule=constant, expected cosine"),
    ],
)
def test_another_mathematics_is_refused(
    chronorun_here: Run, training: Any, stopped: Path, how: str, override: str, message: str
) -> None:
    done = chronorun_here("train", "run_id=a", how, override)
    assert (done.code, done.err) == (
        2,
        f"chronorun: error: resume: {message} as in outputs/a/config.yaml; "
        "drop the override or start a new run\n",
    )
    assert training.runs == []
    saved = OmegaConf.to_container(OmegaConf.load("outputs/a/.hydra/overrides.yaml"))
    assert saved == ["run_id=a", "model=nano", "seed=3"]


def test_auto_starts_a_run_that_is_not_there(chronorun_here: Run, training: Any) -> None:
    assert chronorun_here("train", "run_id=b", "resume=auto", "seed=5").code == 0
    assert training.runs[0][0].seed == 5


def test_auto_without_a_checkpoint_may_change_everything(
    chronorun_here: Run, training: Any, stopped: Path
) -> None:
    (stopped / "checkpoints/step_00000020/MANIFEST.json").unlink()
    assert chronorun_here("train", "run_id=a", "resume=auto", "seed=5").code == 0


def test_a_sweep_resumes_job_by_job(chronorun_here: Run, training: Any) -> None:
    arguments = ("train", "-m", "run_id=sw", "seed=1,2", "model=nano")
    assert chronorun_here(*arguments).code == 0
    folders = [leave_behind(training), leave_behind(training)]
    assert chronorun_here(*arguments, "resume=auto").code == 0
    assert [run_dir for _, _, run_dir in training.runs] == folders[::-1]
    done = chronorun_here(*arguments, "resume=auto", "model.top_k=1")
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "chronorun: error: resume: model.top_k=1, expected 2 as in "
        "outputs/multirun/sw/0-seed-1/config.yaml; drop the override or start a new run"
    )


@pytest.mark.whole
def test_one_job_of_a_sweep_resumes_by_its_folder(chronorun_here: Run, training: Any) -> None:
    assert (
        chronorun_here("train", "-m", "run_id=sw", "seed=1,2", "optimizer.lr=1e-3,2e-3").code == 0
    )
    folder = leave_behind(training)
    training.runs.clear()
    done = chronorun_here("train", f"resume={folder}")
    assert done.code == 0, done.err
    config, _, run_dir = training.runs[0]
    assert (run_dir, config.seed, config.optimizer.lr) == (folder, 2, 2e-3)
    assert config.run_id == f"sw-{folder.name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("resume=auto",),
            "run_id is not given, expected run_id=NAME beside resume=auto; "
            "add it, or name the folder: resume=outputs/NAME",
        ),
        (
            ("resume=outputs/none",),
            "outputs/none is not a run folder or one of its checkpoints, expected a folder with "
            "config.yaml; name one such as outputs/run",
        ),
        (
            ("resume=outputs/a", "run_id=b"),
            "run_id=b, expected a as outputs/a says; drop run_id",
        ),
        (
            ("resume=outputs/a", "-m", "seed=1,2"),
            "a folder is named, expected resume=auto with --multirun; "
            "give the sweep's run_id=NAME and resume=auto",
        ),
        (
            ("resume=outputs/a", "hydra.run.dir=x"),
            "hydra.run.dir=x, expected the folder of the run that is continued; drop hydra.run.dir",
        ),
    ],
)
def test_a_resume_that_names_no_run_is_refused(
    chronorun_here: Run, training: Any, stopped: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = chronorun_here("train", *arguments)
    assert (done.code, done.err) == (2, f"chronorun: error: resume: {message}\n")
    assert training.runs == []


def test_damaged_saved_overrides_are_named(chronorun_here: Run, stopped: Path) -> None:
    (stopped / ".hydra/overrides.yaml").write_text("a: [", encoding="utf-8")
    done = chronorun_here("train", "resume=outputs/a")
    assert (done.code, done.err) == (
        3,
        "chronorun: error: resume: outputs/a/.hydra/overrides.yaml is not YAML; restore the file\n",
    )


def test_the_folder_of_a_linked_checkpoint_is_the_runs(stopped: Path) -> None:
    found = run_folder_of(Path("outputs/run/checkpoints/step_00000020"))
    assert found == Path("outputs/a")


def saved_by_an_older_version(folder: Path) -> None:
    """Let a run's configuration hold the gate order that was the default once."""
    saved = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(saved, "router.gate_order", "topk_then_softmax")
    OmegaConf.save(saved, folder / "config.yaml")


@pytest.mark.parametrize(
    ("overrides", "now"),
    [
        (("model.top_k=2",), ("router.gate_order=topk_then_softmax",)),
        *(
            pytest.param(overrides, (), marks=pytest.mark.whole)
            for overrides in (
                ("model.top_k=2",),
                ("model.top_k=3", "scenario=collapse"),
                ("router=topk",),
            )
        ),
    ],
)
def test_a_run_that_named_what_auto_means_goes_on(
    chronorun_here: Run, training: Any, overrides: tuple[str, ...], now: tuple[str, ...]
) -> None:
    assert chronorun_here("train", "run_id=a", "model=nano", *overrides).code == 0
    saved_by_an_older_version(leave_behind(training))
    done = chronorun_here("train", "resume=outputs/a", *now)
    assert (done.code, done.err) == (0, "")
    assert len(training.runs) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.top_k=1",),
        pytest.param(("scenario=too_few",), marks=pytest.mark.whole),
        pytest.param(("scenario=capacity_whiplash",), marks=pytest.mark.whole),
    ],
)
@pytest.mark.parametrize(
    "now", [(), pytest.param(("router.gate_order=auto",), marks=pytest.mark.whole)]
)
@pytest.mark.parametrize("named", [True, pytest.param(False, marks=pytest.mark.whole)])
def test_a_run_whose_router_the_loss_did_not_reach_is_refused_with_advice_that_works(
    chronorun_here: Run,
    training: Any,
    overrides: tuple[str, ...],
    now: tuple[str, ...],
    named: bool,
) -> None:
    assert chronorun_here("train", "run_id=a", "model=nano", *overrides).code == 0
    folder = leave_behind(training)
    saved_by_an_older_version(folder)
    if named:
        given = folder / ".hydra/overrides.yaml"
        text = given.read_text(encoding="utf-8")
        given.write_text(f"{text}- router.gate_order=topk_then_softmax\n", encoding="utf-8")
    done = chronorun_here("train", "resume=outputs/a", *now)
    assert (done.code, done.err) == (
        2,
        "chronorun: error: resume: router.gate_order=topk_then_softmax at top_k=1 in "
        "outputs/a/config.yaml, expected gates that teach the router (a softmax over one chosen "
        "expert is always 1); start a new run, under another run_id and without resume\n",
    )
    assert training.runs == []
    assert chronorun_here("train", "run_id=b", "model=nano", *overrides, *now).code == 0


@pytest.mark.whole
def test_a_job_of_an_older_sweep_is_refused_like_a_run(chronorun_here: Run, training: Any) -> None:
    sweep = ("-m", "run_id=sw", "model=nano", "model.top_k=1,2")
    assert chronorun_here("train", *sweep).code == 0
    saved_by_an_older_version(leave_behind(training))
    saved_by_an_older_version(leave_behind(training))
    done = chronorun_here("train", *sweep, "resume=auto")
    assert done.code != 0
    assert "router.gate_order=topk_then_softmax at top_k=1 in outputs/multirun/sw/0" in done.err
    assert [config.model.top_k for config, _, _ in training.runs] == [2]


def test_another_gate_order_is_another_run(chronorun_here: Run, training: Any) -> None:
    assert chronorun_here("train", "run_id=a", "model=nano").code == 0
    leave_behind(training)
    done = chronorun_here("train", "resume=outputs/a", "router.gate_order=softmax_then_topk")
    assert (done.code, done.err) == (
        2,
        "chronorun: error: resume: router.gate_order=softmax_then_topk, expected auto as in "
        "outputs/a/config.yaml; drop the override or start a new run\n",
    )
