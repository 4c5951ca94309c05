"""What ``resume=`` adds to the command line: the overrides the run was started with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chronorun.config.compose import compose_run
from chronorun.errors import StorageError, UserError

FREE_KEYS = (
    "tracking.",
    "training.checkpoint_interval",
    "training.keep_last",
    "training.keep_best",
    "training.max_steps",
    "resume",
    "output_dir",
    "run_id",
)
"""Keys that may change on a resume: they do not change what a step computes (max_steps does change
the schedule's length, which is what one asks for by changing it)."""


def continue_run(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the run to continue, then those given now.

    Unchanged when nothing is resumed. Raises UserError when the two contradict each other in a key
    that changes the mathematics.
    """
    given = _given(overrides)
    resume = given.get("resume")
    if resume in (None, "null"):
        return list(overrides)
    if resume == "auto":
        if "run_id" not in given:
            raise UserError(
                "resume: resume=auto needs a run_id, got none; "
                "add run_id=NAME or give resume=outputs/NAME"
            )
        run_dir = Path(given.get("output_dir", "outputs")) / given["run_id"]
        if not (run_dir / ".hydra" / "overrides.yaml").is_file():
            return list(overrides)
        named: list[str] = []
    else:
        run_dir = run_folder_of(Path(resume))
        named = [f"run_id={run_dir.name}", f"output_dir={_quote(str(run_dir.parent))}"]
    saved = [text for text in _saved_overrides(run_dir) if text.partition("=")[0] != "resume"]
    merged = _merge(_merge(saved, overrides), named)
    _check_same_mathematics(run_dir, merged)
    return merged


def run_folder_of(path: Path) -> Path:
    """Return the run folder that a path given to ``resume=`` belongs to."""
    folder = path.parents[1] if path.parent.name == "checkpoints" else path
    folder = folder.resolve() if folder.is_symlink() else folder
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        raise UserError(
            f"resume: {path} is not a run folder or one of its checkpoints; "
            f"name a folder below outputs/"
        )
    return folder


def _given(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (text.partition("=") for text in overrides)
    return {key.lstrip("+"): value.strip("'\"") for key, _, value in pairs}


def _quote(text: str) -> str:
    return f"'{text}'"


def _merge(first: Sequence[str], then: Sequence[str]) -> list[str]:
    replaced = {text.partition("=")[0] for text in then}
    return [text for text in first if text.partition("=")[0] not in replaced] + list(then)


def _saved_overrides(run_dir: Path) -> list[str]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    path = run_dir / ".hydra" / "overrides.yaml"
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, ValueError) as error:
        raise StorageError(f"resume: {path} is not YAML; restore the file") from error
    if not isinstance(loaded, list):
        raise StorageError(f"resume: {path} is not a list of overrides; restore the file")
    return [str(text) for text in loaded]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested configuration data by dotted key."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _check_same_mathematics(run_dir: Path, overrides: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    path = run_dir / "config.yaml"
    if not path.is_file():
        return
    _, composed = compose_run(overrides)
    new = flatten(OmegaConf.to_container(composed, resolve=False, enum_to_str=True))
    old = flatten(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    for key in sorted(old.keys() & new.keys()):
        if old[key] != new[key] and not key.startswith(FREE_KEYS):
            raise UserError(
                f"resume: {key}={new[key]}, expected {old[key]} as in {path}; "
                f"drop the override or start a new run"
            )
