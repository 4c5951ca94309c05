"""Checkpoints come back bit for bit, or are refused with the bad file's name."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from chronorun.config.training import OptimizerConfig
from chronorun.core.processes import digest_tensors
from chronorun.errors import StorageError
from chronorun.training.checkpoints import folder as module
from chronorun.training.checkpoints.folder import (
    best_of,
    list_checkpoints,
    load_checkpoint,
    load_optimizer_tensors,
    newest_good_checkpoint,
    optimizer_tensors,
    prune_checkpoints,
    remove_leftovers,
    rng_state,
    save_checkpoint,
    set_aside_newer,
    set_rng_state,
)
from chronorun.training.optimizer import build_optimizer

FILES = (
    "MANIFEST.json",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "state.safetensors",
)


def tensors(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(4, 6, generator=g)
    return {
        "model": {"w": base, "same memory": base[1:], "transposed": base.t()},
        "optimizer": {"w.step": torch.tensor(3.0), "w.exp_avg": base.double() / 3},
        "state": {
            "counts": torch.arange(5),
            "mask": torch.tensor([True, False]),
            "half": base.bfloat16(),
            "none": torch.empty(0, 4),
            "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        },
    }


def save(run: Path, step: int, seed: int = 0) -> Path:
    return save_checkpoint(run, step, tensors(seed), {"step": step, "pi": 0.1 + 0.2, "x": None})


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = tensor.contiguous().flatten().view(torch.uint8)
    return tensor.dtype, tensor.shape, flat.numpy().tobytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_tensors_and_state_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 400)
    assert path == tmp_path / "checkpoints" / "step_00000400"
    assert names(path) == sorted(FILES)
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.path) == (400, path)
    assert loaded.state == {"step": 400, "pi": 0.1 + 0.2, "x": None}
    for kind, named in tensors().items():
        assert loaded.tensors[kind].keys() == named.keys()
        for name, tensor in named.items():
            assert bits(loaded.tensors[kind][name]) == bits(tensor), name


def test_equal_states_make_equal_files(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 1), save(tmp_path / "two", 1)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_kinds_that_were_not_given_are_empty(tmp_path: Path) -> None:
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, {}, {}))
    assert loaded.tensors == {"model": {}, "optimizer": {}, "state": {}}


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    for name in FILES:
        file = path / name
        # Every byte of the small files that are parsed as text, a spread of the others.
        size = file.stat().st_size
        for position in range(0, size, 1 if name.endswith(".json") else max(1, size // 40)):
            flip(file, position)
            with pytest.raises(StorageError, match=r"^checkpoint: .*; resume from another"):
                load_checkpoint(path)
            flip(file, position)
    assert load_checkpoint(path).step == 7


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "longer", "symlink", "folder"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path, 7)
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if damage in ("truncated", "empty", "longer"):
        changed = {"truncated": content[:-1], "empty": b"", "longer": content + b" x"}
        file.write_bytes(changed[damage])
    elif damage == "symlink":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        file.mkdir()
    with pytest.raises(StorageError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"checkpoint: {file} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: flip(path / "model.safetensors", -1),
            "{path}/model.safetensors differs from its sha256",
        ),
        (
            lambda path: (path / "state.json").write_bytes(b"{}"),
            "{path}/state.json has 2 bytes, expected 44",
        ),
        (lambda path: (path / "state.json").unlink(), "{path}/state.json is missing"),
        (lambda path: (path / "MANIFEST.json").unlink(), "{path}/MANIFEST.json is missing"),
        (
            lambda path: (path / "extra.pt").write_bytes(b""),
            "{path}/extra.pt does not belong to a checkpoint",
        ),
        (shutil.rmtree, "{path} is not a checkpoint folder"),
    ],
)
def test_the_whole_message_of_a_refusal(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = save(tmp_path, 7)
    damage(path)
    with pytest.raises(StorageError) as caught:
        load_checkpoint(path)
    what = message.format(path=path)
    assert str(caught.value) == f"checkpoint: {what}; resume from another checkpoint"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "has schema_version=2, expected 1"),
        ({"step": 8}, "is of step 8, expected that of step_00000007"),
        ({"files": {}}, "lists no file"),
        ({"files": {"../x": {"bytes": 1, "sha256": ""}}}, "lists ../x"),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    manifest = save(tmp_path, 7) / "MANIFEST.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(StorageError) as caught:
        load_checkpoint(manifest.parent)
    assert str(caught.value) == (
        f"checkpoint: {manifest} {message}; resume from another checkpoint"
    )


def test_swapped_files_and_folders_are_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path, 1, seed=1), save(tmp_path, 2, seed=2)
    held = (one / "model.safetensors").read_bytes()
    (one / "model.safetensors").write_bytes((two / "model.safetensors").read_bytes())
    with pytest.raises(StorageError, match=r"model\.safetensors differs from its sha256"):
        load_checkpoint(one)
    (one / "model.safetensors").write_bytes(held)
    aside = tmp_path / "aside"
    one.rename(aside)
    two.rename(one)
    with pytest.raises(StorageError, match="is of step 2, expected that of step_00000001"):
        load_checkpoint(one)


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "real", 1)
    link = tmp_path / "step_00000001"
    link.symlink_to(path)
    with pytest.raises(StorageError, match="is not a checkpoint folder"):
        load_checkpoint(link)


def test_saving_a_good_step_again_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    before = {name: (path / name).stat().st_mtime_ns for name in FILES}
    assert save(tmp_path, 5, seed=9) == path
    assert {name: (path / name).stat().st_mtime_ns for name in FILES} == before


def test_saving_replaces_a_damaged_step(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    (path / "state.json").write_bytes(b"")
    save(tmp_path, 5)
    assert load_checkpoint(path).step == 5
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("broken_at", range(len(FILES)))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: int, error: BaseException
) -> None:
    save(tmp_path, 1)
    write, calls = module._write, iter(range(99))

    def failing(path: Path, data: bytes) -> None:
        if next(calls) == broken_at:
            path.write_bytes(data[: len(data) // 2])
            raise error
        write(path, data)

    monkeypatch.setattr(module, "_write", failing)
    with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
        save(tmp_path, 2)
    if isinstance(error, OSError):
        assert str(caught.value) == (
            f"checkpoint: {tmp_path}/checkpoints/step_00000002 cannot be written (No space left on "
            f"device); free some disk space and resume from the one before"
        )
    assert names(tmp_path / "checkpoints") == ["step_00000001"]
    found, notices = newest_good_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, notices) == (1, [])


def test_the_manifest_is_the_last_file_and_all_are_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    write, rename, fsync = module._write, Path.rename, os.fsync

    monkeypatch.setattr(
        module, "_write", lambda path, data: (events.append(path.name), write(path, data))
    )
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1]
    )
    save(tmp_path, 1)
    files = [event for event in events if event not in ("fsync", "rename")]
    assert files[-1] == "MANIFEST.json"
    # One flush a file, one of the folder before it is renamed, one of its parent after.
    assert events[events.index("MANIFEST.json") :] == [
        "MANIFEST.json",
        "fsync",
        "fsync",
        "rename",
        "fsync",
    ]
    assert events.count("fsync") == len(FILES) + 2


def test_the_newest_good_one_is_found_and_the_others_are_told(tmp_path: Path) -> None:
    save(tmp_path, 1)
    two, three = save(tmp_path, 2), save(tmp_path, 3)
    flip(three / "state.json", 0)
    (two / "MANIFEST.json").unlink()
    found, notices = newest_good_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert notices == [
        f"passed over a damaged checkpoint: checkpoint: {three}/state.json differs from its "
        f"sha256; resume from another checkpoint",
        f"passed over a damaged checkpoint: checkpoint: {two}/MANIFEST.json is missing; resume "
        f"from another checkpoint",
    ]


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert newest_good_checkpoint(tmp_path) == (None, [])


def test_steps_beyond_eight_digits_are_newest(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999)
    save(tmp_path, 100_000_000)
    found, _ = newest_good_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 100_000_000


@pytest.mark.parametrize(
    ("keep_last", "best", "kept"),
    [
        (2, None, [4, 5]),
        (1, 2, [2, 5]),
        (9, None, [1, 2, 3, 4, 5]),
        (1, 5, [5]),
        (1, 0, [5]),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(
    tmp_path: Path, keep_last: int, best: int | None, kept: list[int]
) -> None:
    for step in range(1, 6):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, keep_last, best)
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == kept
    assert len(names(tmp_path / "checkpoints")) == len(kept)


def test_a_best_step_that_was_not_saved_means_the_newest_before_it(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (10, 20, 30)]
    assert best_of(paths, 25) == paths[1]
    assert best_of(paths, 9) is None


def test_leftovers_of_a_killed_save_go_and_checkpoints_stay(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in (".partial-step_00000002-77", ".removed-step_00000000"):
        (path.parent / name).mkdir()
        (path.parent / name / "model.safetensors").write_bytes(b"half")
    assert newest_good_checkpoint(tmp_path)[1] == []
    remove_leftovers(tmp_path)
    assert names(path.parent) == [path.name]
    remove_leftovers(tmp_path / "no such run")


def test_continuing_from_an_older_step_sets_newer_ones_aside(tmp_path: Path) -> None:
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    aside = two.with_name("step_00000002.orphaned-1")
    assert set_aside_newer(tmp_path, 1) == [
        f"set aside step_00000002, newer than the one resumed from: {aside}"
    ]
    assert list_checkpoints(tmp_path) == [one]
    save(tmp_path, 2)
    set_aside_newer(tmp_path, 1)
    assert two.with_name("step_00000002.orphaned-2").is_dir()


def test_random_numbers_continue_where_they_were() -> None:
    torch.manual_seed(3)
    saved = {name: tensor.clone() for name, tensor in rng_state().items()}
    first = torch.randn(5)
    set_rng_state(saved)
    assert torch.equal(torch.randn(5), first)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_the_optimizer_continues_bit_for_bit(tmp_path: Path) -> None:
    one = small_model()
    optimizer = build_optimizer(one, OptimizerConfig())
    train(one, optimizer, range(3))
    saved = optimizer_tensors(one, optimizer)
    assert {key for key in saved if key.startswith("0.weight")} == {
        "0.weight.step",
        "0.weight.exp_avg",
        "0.weight.exp_avg_sq",
    }
    kinds = {"model": one.state_dict(), "optimizer": saved}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, kinds, {}))
    other = small_model()
    fresh = build_optimizer(other, OptimizerConfig())
    train(other, fresh, range(7, 9))  # state that loading must drop
    other.load_state_dict(loaded.tensors["model"])
    load_optimizer_tensors(other, fresh, loaded.tensors["optimizer"])
    train(one, optimizer, range(3, 6))
    train(other, fresh, range(3, 6))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert bits(a.detach()) == bits(b.detach())
    for key, value in optimizer_tensors(other, fresh).items():
        assert bits(value) == bits(optimizer_tensors(one, optimizer)[key]), key


def test_optimizer_tensors_in_any_order_are_the_same_state() -> None:
    one, other = small_model(), small_model()
    optimizer, fresh = (build_optimizer(model, OptimizerConfig()) for model in (one, other))
    train(one, optimizer, range(3))
    saved = optimizer_tensors(one, optimizer)
    names = list(saved)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        load_optimizer_tensors(other, fresh, {name: saved[name] for name in names})
        again = optimizer_tensors(other, fresh)
        assert list(again) == list(saved)
        assert digest_tensors(again) == digest_tensors(saved)
        states = (list(fresh.state[parameter]) for parameter in other.parameters())
        assert all(entries == sorted(entries) for entries in states)


def test_a_checkpoint_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    names = [f"{place}.weight" for place in range(30)]
    kinds = {"model": {name: torch.zeros(1) for name in names}}
    path = save_checkpoint(tmp_path, 3, kinds, {})
    for _ in range(3):
        assert list(load_checkpoint(path).tensors["model"]) == sorted(names)


@pytest.mark.parametrize(
    ("key", "expected"), [("0.weight.exp_avg", "[4, 3]"), ("9.weight.exp_avg", "no such tensor")]
)
def test_optimizer_tensors_of_another_model_are_refused(key: str, expected: str) -> None:
    model = small_model()
    with pytest.raises(StorageError) as caught:
        load_optimizer_tensors(
            model, build_optimizer(model, OptimizerConfig()), {key: torch.zeros(7)}
        )
    assert str(caught.value) == (
        f"checkpoint: optimizer tensor {key} has shape [7], expected {expected}; "
        f"resume with the model it was saved from"
    )
