"""Read the configuration that a run saved in its folder (``config.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.describe import flatten
from chronorun.config.run import RunConfig
from chronorun.core.run_files import CONFIG
from chronorun.errors import StorageError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def saved_config(run_dir: Path, what: str = "run") -> DictConfig:
    """Return a run's configuration as it stands, without resolving references.

    ``what`` opens the messages. Raises UserError if the folder has none, StorageError if it is no
    configuration.
    """
    from omegaconf import DictConfig, OmegaConf

    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(
            f"{what}: {run_dir} is not a run folder (no {CONFIG}); name one, such as outputs/run"
        )
    try:
        saved = OmegaConf.load(path)
    except Exception as error:
        raise _wrong(path, what, error) from error
    if not isinstance(saved, DictConfig):
        raise _wrong(path, what, "no mapping")
    return saved


def saved_fields(run_dir: Path, what: str) -> dict[str, Any]:
    """Return a run's configuration by dotted key. Raises as ``saved_config``."""
    from omegaconf import OmegaConf

    return flatten(OmegaConf.to_container(saved_config(run_dir, what), resolve=False))


def typed_config(run_dir: Path, what: str = "run") -> DictConfig:
    """Return a run's configuration over the defaults of the fields. Raises as ``saved_config``."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    saved = saved_config(run_dir, what)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), saved)
    except OmegaConfBaseException as error:
        raise _wrong(run_dir / CONFIG, what, error) from error
    assert isinstance(merged, DictConfig)
    return merged


def read_run_config(run_dir: Path) -> RunConfig:
    """Return a run's configuration with all references resolved. Raises as ``saved_config``."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = typed_config(run_dir)
    try:
        config = OmegaConf.to_object(typed)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise _wrong(run_dir / CONFIG, "run", error) from error
    assert isinstance(config, RunConfig)
    return config


def _wrong(path: Path, what: str, reason: object) -> StorageError:
    first = str(reason).strip().partition("\n")[0]
    return StorageError(f"{what}: {path} is not a run's configuration ({first}); restore the file")
