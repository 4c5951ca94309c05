"""Compose a run's configuration from ``conf/`` and overrides, and refuse mistakes in one line."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.describe import all_fields
from chronorun.config.paths import conf_dir, group_options, groups
from chronorun.config.run import RunConfig
from chronorun.config.suggest import nearest
from chronorun.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


@functools.cache
def new_run_id() -> str:
    """Return this process's fresh run id: readable, and different in two processes of a second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def register() -> None:
    """Register the root schema and the resolver of fresh run ids (again is harmless)."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    # Only the root schema: a schema per group would show up as one of the group's options.
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    OmegaConf.register_new_resolver("new_run_id", new_run_id, replace=True)


def compose_run(
    overrides: Sequence[str], extra_dir: Path | None = None
) -> tuple[RunConfig, DictConfig]:
    """Compose and validate one run; of a sweep, every value is checked and the first one taken.

    Raises UserError naming the key, value or group that is wrong and the nearest right one.
    """
    parsed = parse_overrides(overrides)
    for override in parsed:
        _check_names(override, extra_dir)
    choices = [_choices(override) for override in parsed]
    first = [options[0] for options in choices]
    result = _compose(first, extra_dir)
    for index, options in enumerate(choices):
        for option in options[1:]:
            _compose([*first[:index], option, *first[index + 1 :]], extra_dir)
    return result


def to_run_config(composed: DictConfig) -> RunConfig:
    """Turn a composed configuration into checked dataclasses."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {_one_line(error)}") from error
    assert isinstance(config, RunConfig)
    return config


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse command-line overrides. Raises UserError for one that is not ``key=value``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in map(listify_files, overrides):
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            raise UserError(
                f"configuration: {text!r} is not an override, expected key=value or group=option; "
                f"quote values with spaces or commas"
            ) from error
    return parsed


def listify_files(text: str) -> str:
    """Let ``data.files=book.txt`` mean a list of one file."""
    key, sign, value = text.partition("=")
    if key.lstrip("+") == "data.files" and sign and value and "," not in value:
        return text if value.startswith("[") else f"{key}=[{value}]"
    return text


def _known_keys() -> set[str]:
    keys = {info.key for info in all_fields()}
    return keys | {key.rpartition(".")[0] for key in keys if "." in key}


def _check_names(override: Override, extra_dir: Path | None) -> None:
    key = override.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return
    if override.is_delete():
        raise UserError(
            f"configuration: ~{key} deletes what a run needs, expected key=value; "
            f"choose another value or option"
        )
    if key in groups():
        options = set(group_options(key))
        if extra_dir is not None:
            options |= {path.stem for path in (extra_dir / key).glob("*.yaml")}
        for value in _values(override):
            if str(value) not in options and value is not None:
                raise UserError(
                    f"configuration: {key}={value} is not an option; {nearest(str(value), options)}"
                )
        return
    known = _known_keys()
    if key not in known and not (extra_dir and (extra_dir / key).is_dir()):
        raise UserError(
            f"configuration: there is no key {key!r}; {nearest(key, known | set(groups()))}"
        )


def _values(override: Override) -> Iterable[Any]:
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    value = override.value()
    return value if isinstance(value, list) else [value]


def _choices(override: Override) -> list[str]:
    text = str(override.input_line)
    if not override.is_sweep_override():
        return [text]
    key = text.partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _compose(overrides: Sequence[str], extra_dir: Path | None) -> tuple[RunConfig, DictConfig]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    GlobalHydra.instance().clear()
    search = [] if extra_dir is None else [f"hydra.searchpath=[file://{extra_dir.resolve()}]"]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("train", [*overrides, *search])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"configuration: {_one_line(error.__cause__ or error)}") from error
    return to_run_config(composed), composed


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0].rstrip(".") if lines else type(error).__name__
    wanted = [line for line in lines if line.startswith("full_key:")]
    if not wanted:
        return f"{message}; see chronorun train --help"
    key = wanted[0].removeprefix("full_key:").strip()
    choices = next((info.choices for info in all_fields() if info.key == key), ())
    if choices:
        wrong = message.partition("'")[2].partition("'")[0]
        return f"{key}={wrong}, expected one of {', '.join(choices)}; {nearest(wrong, choices)}"
    return f"{key}: {message}; see chronorun train --help"
