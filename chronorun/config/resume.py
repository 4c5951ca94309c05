"""What ``resume=`` adds to the command line: the overrides the run was started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.describe import all_fields, flatten, show_value
from chronorun.config.gates import is_deaf, saved_orders
from chronorun.config.overrides import parse_overrides, quoted
from chronorun.config.run import RunConfig, is_plain, plain_name
from chronorun.config.saved import saved_fields
from chronorun.core.run_files import CHECKPOINTS, CONFIG, HYDRA
from chronorun.errors import StorageError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

GATES = "router.gate_order"

CONFIG_ON_OURS = "config-on-train"
"""What a run's ``config.yaml`` is called where it is laid over our root."""

# What the run's place already says, and what only held for the start.
NOT_TAKEN_OVER = ("resume", "run_id", "output_dir", "data.accept_changes", "hydra.")


@dataclass(frozen=True)
class Continuation:
    """The run folder that is continued, and the whole list of overrides.

    ``from_config`` says that they are laid over the run's own ``config.yaml``, not over ours.
    """

    run_dir: Path
    overrides: list[str]
    from_config: bool = False


def continuation(overrides: Sequence[str], *, own_files: bool = False) -> Continuation | None:
    """Return what ``resume=`` asks for: saved overrides, then those given now; None without it.

    A run that began from config files of the user's goes on from its own ``config.yaml``, unless
    the command line names such files again (``own_files``): they may have changed or gone.

    Raises UserError when the run to continue is not named or not there.
    """
    given = {item.get_key_element(): _literal(item.value()) for item in parse_overrides(overrides)}
    resume = given.get("resume")
    if resume is None:
        return None
    if resume == "auto":
        if "run_id" not in given:
            raise UserError(
                "resume: run_id is not given, expected run_id=NAME beside resume=auto; "
                "add it, or name the folder: resume=outputs/NAME"
            )
        output_dir = given.get("output_dir", RunConfig().output_dir)
        run_dir = Path(str(output_dir)) / str(given["run_id"])
        place: list[str] = []
    else:
        run_dir = run_folder_of(Path(str(resume)))
        place = _place(run_dir)
        for key, value in (("run_id", run_dir.name), ("output_dir", str(run_dir.parent))):
            if key in given and str(given[key]) != value:
                raise UserError(
                    f"resume: {key}={given[key]}, expected {value} as {resume} says; drop {key}"
                )
    if _has_started(run_dir):
        # Before the overrides are composed, in which its gates would be refused without a reason.
        _refuse_deaf_router(saved_fields(run_dir, "resume"), run_dir / CONFIG)
    if _goes_on_from_config(run_dir, own_files):
        return Continuation(run_dir, _merge([], [*overrides, *place]), from_config=True)
    return Continuation(run_dir, _merge(_saved_overrides(run_dir), [*overrides, *place]))


def _literal(value: Any) -> Any:
    """Return a value as the configuration reads it: text may refer to the environment."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return OmegaConf.create({"value": value})["value"]
    except OmegaConfBaseException:
        return value


def _place(run_dir: Path) -> list[str]:
    """Return the overrides that lead to a run's folder."""
    place = [f"output_dir={quoted(str(run_dir.parent))}"]
    if is_plain(run_dir.name):
        return [*place, f"run_id={quoted(run_dir.name)}"]
    # A folder that the user's hydra.run.dir or hydra.sweep.subdir named.
    run_id = saved_run_id(run_dir) or plain_name(run_dir.name)
    return [*place, f"run_id={quoted(run_id)}", f"hydra.run.dir={quoted(str(run_dir))}"]


def run_folder_of(path: Path) -> Path:
    """Return the run folder that a path given to ``resume=`` belongs to."""
    folder = path.parents[1] if path.parent.name == CHECKPOINTS else path
    if folder.is_symlink():
        folder = folder.parent / folder.readlink()
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not path.is_dir() or not (folder / CONFIG).is_file():
        raise UserError(
            f"resume: {path} is not a run folder or one of its checkpoints, expected a folder with "
            f"config.yaml; name one such as outputs/run"
        )
    return folder


def has_checkpoints(run_dir: Path) -> bool:
    """Return whether there is anything to continue from."""
    return any((run_dir / CHECKPOINTS).glob("step_*/MANIFEST.json"))


def _has_started(run_dir: Path) -> bool:
    return (run_dir / CONFIG).is_file() and has_checkpoints(run_dir)


def _merge(first: Sequence[str], then: Sequence[str]) -> list[str]:
    """Return both lists, each key once: the last word counts."""
    last: dict[str, str] = {}
    for text in (*first, *then):
        key = text.partition("=")[0].lstrip("+")
        last.pop(key, None)
        last[key] = text
    return list(last.values())


def _goes_on_from_config(run_dir: Path, own_files: bool) -> bool:
    """Return whether Hydra read config files in other folders than ours, or another root.

    Where it read ``config.yaml`` before, the overrides that led there are no longer beside it.
    """
    from omegaconf import OmegaConf

    path = run_dir / HYDRA / "hydra.yaml"
    if not (run_dir / CONFIG).is_file() or not path.is_file():
        return False
    try:
        hydra = OmegaConf.load(path).hydra
        sources = [source.provider for source in hydra.runtime.config_sources]
        name = str(hydra.job.config_name)
    except Exception as error:
        raise StorageError(f"resume: {path} is not what Hydra wrote; restore the file") from error
    if name == CONFIG_ON_OURS:
        return True
    return not own_files and (name != "train" or "command-line" in sources)


def _saved_overrides(run_dir: Path) -> list[str]:
    from omegaconf import OmegaConf

    path = run_dir / HYDRA / "overrides.yaml"
    if not path.is_file():
        return []
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        raise StorageError(f"resume: {path} is not YAML; restore the file") from error
    if not isinstance(loaded, list):
        raise StorageError(f"resume: {path} is not a list of overrides; restore the file")
    texts = (str(text) for text in loaded)
    return [text for text in texts if not text.lstrip("+").startswith(NOT_TAKEN_OVER)]


def _refuse_deaf_router(saved: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with a run of an older version whose router the loss does not reach.

    Raises UserError. Such a run can still be read and sampled from.
    """
    if is_deaf(saved_orders(saved)):
        raise UserError(
            f"resume: {GATES}={saved[GATES]} at top_k=1 in {path}, expected gates that teach the "
            f"router (a softmax over one chosen expert is always 1); start a new run, under "
            f"another run_id and without resume"
        )


def check_same_mathematics(run_dir: Path, composed: DictConfig) -> None:
    """Refuse to continue a run with another model, data or schedule than it was started with.

    Raises UserError naming the first key that differs, and both values.
    """
    from omegaconf import OmegaConf

    path = run_dir / CONFIG
    if not _has_started(run_dir):
        return
    old = _comparable(saved_fields(run_dir, "resume"))
    new = _comparable(flatten(OmegaConf.to_container(composed, resolve=False, enum_to_str=True)))
    _refuse_deaf_router(old, path)
    if saved_orders(old) and saved_orders(old) == saved_orders(new):
        # One may name what the other leaves to auto.
        new[GATES] = old[GATES]
    # A key that only one side knows came or went with a version; its default is that version's.
    for key in sorted(old.keys() & new.keys()):
        if old[key] != new[key]:
            raise UserError(
                f"resume: {key}={show_value(new[key])}, expected {show_value(old[key])} as in "
                f"{path}; drop the override or start a new run"
            )


def saved_run_id(run_dir: Path) -> str | None:
    """Return the id that a run was started with; None when it has left no configuration."""
    if not (run_dir / CONFIG).is_file():
        return None
    saved = saved_fields(run_dir, "resume").get("run_id")
    return str(saved) if saved else None


def _comparable(fields: Mapping[str, Any]) -> dict[str, Any]:
    free = {info.key for info in all_fields() if info.free_on_resume}
    return {key: value for key, value in fields.items() if key not in free}
