"""Compose and check a configuration from ``conf/`` and overrides; a mistake is one line."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chronorun.config.bench import BenchRunConfig
from chronorun.config.describe import all_fields, flatten
from chronorun.config.explain import readable_error
from chronorun.config.gates import check_gates
from chronorun.config.overrides import (
    check_names,
    jobs,
    parse_overrides,
    quoted,
)
from chronorun.config.paths import conf_dir
from chronorun.config.roots import ConfigFiles, not_built_on_ours, primary
from chronorun.config.run import RunConfig
from chronorun.config.suggest import SEE_HELP, next_step
from chronorun.config.targets import refuse_targets
from chronorun.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

LONGEST_NAME = 100
"""Maximum length of a folder's name made of a job's overrides."""


@dataclass(frozen=True)
class Composition:
    """A composed and checked configuration; ``hydra`` also holds Hydra's own node."""

    config: RunConfig
    composed: DictConfig
    hydra: DictConfig


def new_run_id() -> str:
    """Return a fresh run id: readable, and different for two runs of one second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def job_folder(number: object, overrides: str) -> str:
    """Return the folder name of a sweep's job: its number and its own overrides.

    It needs no quotes in a later ``resume=PATH``.
    """
    return f"{number}-{_as_name(overrides)}".rstrip("-_.")


def bench_folder(overrides: str) -> str:
    """Return the folder name of a bench's job, made of its own overrides only.

    So the job keeps its folder when more seeds or arms change its number. If the overrides do not
    fit into the name, a part of their hash keeps jobs apart.
    """
    name = _as_name(overrides)
    if len(overrides) <= LONGEST_NAME and not re.search(r"[^A-Za-z0-9._+=,-]", overrides):
        return name
    return f"{name}-{hashlib.sha256(os.fsencode(overrides)).hexdigest()[:6]}"


def _as_name(overrides: str) -> str:
    words = re.sub(r"[^A-Za-z0-9._+-]+", "_", overrides.replace("=", "-"))
    return words[:LONGEST_NAME].rstrip("-_.")


def register() -> None:
    """Register the root schemas and the resolvers that conf/ uses; may be called again."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from chronorun.config.source import install

    install()
    # Only the root schemas: a schema per group would show up as one of the group's options.
    store = ConfigStore.instance()
    for name, schema in (("run_schema", RunConfig), ("bench_schema", BenchRunConfig)):
        # Analysing a schema takes 20 ms.
        if f"{name}.yaml" not in store.repo:
            store.store(name=name, node=schema)
    # Cached: a configuration keeps its run id however often it is read.
    OmegaConf.register_new_resolver("new_run_id", new_run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("bench_folder", bench_folder, replace=True)


def compose_run(
    overrides: Sequence[str], extra_dir: Path | None = None
) -> tuple[RunConfig, DictConfig]:
    """Compose and validate one run.

    Raises UserError naming the wrong key, value or group and the closest valid one.
    """
    result = compose_checked(overrides, ConfigFiles(conf_dir(), extra_dir))
    return result.config, result.composed


def compose_checked(
    overrides: Sequence[str], files: ConfigFiles, *, multirun: bool = False
) -> Composition:
    """Compose and validate a run or, with ``multirun``, every value of a sweep; return the first.

    Raises UserError as ``compose_run`` does.
    """
    parsed, groups = parse_overrides(overrides), files.groups()
    check_names(parsed, groups, multirun, all_fields(files.schema))
    first: Composition | None = None
    # Composing takes some 70 ms, setting a value in a copy 5: jobs that differ only in values of
    # fields are composed once.
    by_value = {
        place
        for place, item in enumerate(parsed)
        if item.is_sweep_override()
        and item.key_or_group not in groups
        and not item.is_hydra_override()
    }
    composed: dict[tuple[str, ...], DictConfig] = {}
    for job in jobs(parsed, groups):
        shared = tuple(text for place, text in enumerate(job) if place not in by_value)
        if shared in composed:
            _check_values(composed[shared], job, [job[place] for place in by_value])
            continue
        composition = _compose(job, files)
        composed[shared] = composition.composed
        first = first or composition
    assert first is not None
    return first


def to_run_config(composed: DictConfig) -> RunConfig:
    """Turn a composed configuration into checked dataclasses. Raises UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise readable_error(error, []) from error
    assert isinstance(config, RunConfig)
    check_gates(config)
    return config


def _check_values(composed: DictConfig, job: Sequence[str], changed: Sequence[str]) -> None:
    """Check a job that differs from a composed one in the values of some fields."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    trial = copy.deepcopy(composed)
    try:
        for override in parse_overrides(changed):
            OmegaConf.update(trial, override.key_or_group, override.value())
    except OmegaConfBaseException as error:
        raise readable_error(error, job) from error
    to_run_config(trial)


def _compose(job: list[str], files: ConfigFiles) -> Composition:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    register()
    name = primary(files, job)
    try:
        with _hydra_of(files):
            whole = compose(name, _with_search_path(job, files), return_hydra_config=True)
        if not issubclass(OmegaConf.get_type(whole) or dict, files.schema):
            raise not_built_on_ours(files)
        refuse_targets(whole.hydra)
        composed = copy.deepcopy(whole)
        with open_dict(composed):
            del composed["hydra"]
        _refuse_unknown_keys(composed, files.schema)
        config = to_run_config(composed)
        # A fresh id was drawn once; from here on it is a plain value.
        composed.run_id = whole.run_id = config.run_id
    except (HydraException, OmegaConfBaseException) as error:
        raise readable_error(error, job, files.with_defaults()) from error
    except RecursionError as error:
        raise UserError(
            f"configuration: {files.root} includes itself, expected an end to its defaults; "
            f"drop the entry"
        ) from error
    return Composition(config, composed, whole)


@contextmanager
def _hydra_of(files: ConfigFiles) -> Iterator[None]:
    """Initialise Hydra for one composition, and leave a surrounding Hydra as it was."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        folder = str(files.places()[0])
        with initialize_config_dir(folder, version_base="1.3", job_name=files.name):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _with_search_path(job: list[str], files: ConfigFiles) -> list[str]:
    others = files.places()[1:]
    if not others:
        return job
    given = [text for text in job if text.partition("=")[0] == "hydra.searchpath"]
    places = [f"file://{folder.resolve()}" for folder in others]
    for override in parse_overrides(given):
        value = override.value()
        places.extend(map(str, value) if isinstance(value, list) else [])
    rest = [text for text in job if text not in given]
    return [*rest, f"hydra.searchpath=[{','.join(map(quoted, places))}]"]


def _refuse_unknown_keys(composed: DictConfig, schema: type[RunConfig]) -> None:
    """Refuse keys that ``+`` or a package override added to the schema. Raises UserError."""
    from omegaconf import OmegaConf

    fields = all_fields(schema)
    known = {info.key for info in fields}
    mappings = tuple(f"{info.key}." for info in fields if info.is_mapping)
    for key in flatten(OmegaConf.to_container(composed, resolve=False)):
        if key not in known and not (mappings and key.startswith(mappings)):
            raise UserError(
                f"configuration: {key} is set, expected a known key; "
                f"{next_step(key, known, SEE_HELP)}"
            )
