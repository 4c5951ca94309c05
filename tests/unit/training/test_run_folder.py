"""What a run folder holds at its start and at its end, and where ``outputs/run`` points."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from chronorun.config.data import DataConfig, Source
from chronorun.config.run import RunConfig
from chronorun.training import run_folder
from chronorun.training.logs import RunLogs
from chronorun.training.run_folder import finish_run_folder, open_run_folder, point_at_newest
from chronorun.training.sampling import read_run_config


class FakeCorpus:
    """As much of a corpus as a run folder asks for."""

    corpus_hash = "c0ffee"
    n_bytes = 12
    keeps_tokenizer = False

    def save_tokenizer(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text("{}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def target(folder: Path) -> str:
    return str((folder / "run").readlink())


def opened(run_dir: Path, output_dir: Path, run_id: str, **changes: Any) -> DictConfig:
    config = RunConfig(run_id=run_id, output_dir=str(output_dir), **changes)
    composed = OmegaConf.structured(config)
    composed.run_id = "${new_run_id:}"
    composed.tracking.wandb.project = "${oc.env:CHRONORUN_TEST_SECRET}"
    corpus: Any = FakeCorpus()
    open_run_folder(config, composed, run_dir, corpus, torch.device("cpu"))
    assert isinstance(composed, DictConfig)
    return composed


def test_a_new_folder_says_what_runs(tmp_path: Path) -> None:
    opened(tmp_path / "one", tmp_path, "one", seed=7)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "config.yaml",
        "run_manifest.json",
        "tokenizer",
    }
    manifest = json.loads((tmp_path / "one" / "run_manifest.json").read_text())
    assert manifest["run_id"] == manifest["config"]["run_id"] == "one"
    assert (manifest["seed"], manifest["dataset"]) == (7, "stdlib")
    assert (manifest["corpus_hash"], manifest["device"]) == ("c0ffee", "cpu")
    assert manifest["threads"] == torch.get_num_threads()
    assert manifest["architecture"]["n_experts_per_layer"] == [8, 8, 8, 8]
    assert "torch" in manifest["versions"]


def test_secrets_are_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONORUN_TEST_SECRET", "hunter2")
    composed = opened(tmp_path / "one", tmp_path, "one")
    for path in (tmp_path / "one").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()
    assert "${oc.env:CHRONORUN_TEST_SECRET}" in (tmp_path / "one" / "config.yaml").read_text()
    # The caller's own configuration is not touched.
    assert OmegaConf.to_container(composed)["run_id"] == "${new_run_id:}"  # type: ignore[call-overload,index]


def test_the_written_configuration_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHRONORUN_TEST_SECRET", "hunter2")
    opened(tmp_path / "one", tmp_path, "one", seed=11)
    config = read_run_config(tmp_path / "one")
    assert (config.run_id, config.seed, config.model.top_k) == ("one", 11, 2)


def test_a_name_that_is_no_utf8_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHRONORUN_TEST_SECRET", "hunter2")
    name = "caf\udce9.txt"
    data = DataConfig(source=Source.text, files=[name])
    opened(tmp_path / "one", tmp_path, "one", data=data)
    assert read_run_config(tmp_path / "one").data.files == [name]
    manifest = json.loads((tmp_path / "one" / "run_manifest.json").read_text())
    assert manifest["config"]["data"]["files"] == ["caf\\udce9.txt"]
    finish_run_folder(tmp_path / "one", {"run_dir": name}, RunLogs(tmp_path / "one"))
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["run_dir"] == "caf\\udce9.txt"


def test_run_points_at_the_newest_by_a_relative_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        opened(tmp_path / name, tmp_path, name)
        assert target(tmp_path) == name
    assert names(tmp_path) == ["one", "run", "two"]


def test_a_job_of_a_sweep_leaves_the_link_alone(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    opened(sweep / "0", sweep, "sweep-0")
    opened(tmp_path / "bench" / "1-a=b", tmp_path, "other")
    assert not os.path.lexists(sweep / "run")
    assert not os.path.lexists(tmp_path / "run")
    assert not os.path.lexists(tmp_path / "bench" / "run")


def test_a_dangling_link_is_replaced_and_a_real_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("gone")
    (tmp_path / "one").mkdir()
    point_at_newest(tmp_path / "one")
    assert target(tmp_path) == "one"
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    point_at_newest(tmp_path / "one")
    assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").is_symlink()


def test_the_link_is_swapped_and_never_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at_newest(tmp_path / "one")
    replace, seen = Path.replace, []

    def watched(self: Path, link: Path) -> Path:
        seen.append(target(tmp_path))
        return replace(self, link)

    monkeypatch.setattr(Path, "replace", watched)
    point_at_newest(tmp_path / "two")
    assert seen == ["one"]
    assert target(tmp_path) == "two"


def test_a_file_system_without_links_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    opened(tmp_path / "one", tmp_path, "one")
    assert names(tmp_path) == ["one"]


def test_opening_again_removes_what_a_killed_save_left(tmp_path: Path) -> None:
    left = tmp_path / "one" / "checkpoints" / ".partial-step_00000001-9"
    left.mkdir(parents=True)
    opened(tmp_path / "one", tmp_path, "one")
    assert not left.exists()


def test_the_summary_holds_the_hash_of_each_log(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    logs.metrics.write({"step": 1})
    logs.close()
    finish_run_folder(tmp_path, {"run_id": "one", "val_loss": 0.1 + 0.2, "best": None}, logs)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {
        "run_id": "one",
        "val_loss": 0.1 + 0.2,
        "best": None,
        "logs": {
            name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
            for name in ("metrics.jsonl", "timings.jsonl")
        },
    }


def test_a_failed_summary_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = RunLogs(tmp_path)
    logs.close()
    finish_run_folder(tmp_path, {"status": "completed"}, logs)
    before = (tmp_path / "summary.json").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        run_folder.finish_run_folder(tmp_path, {"status": "failed"}, logs)
    assert (tmp_path / "summary.json").read_bytes() == before
    assert not list(tmp_path.glob(".summary*"))
