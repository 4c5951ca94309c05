"""Find the root file of a configuration: ours, one built on ours, or a complete one.

The output of ``--cfg job`` and a run's ``config.yaml`` are complete: they hold values and name no
groups. Such a root is laid over ours: its values win over our groups' options, and groups chosen on
the command line win over its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.config.bench import BenchRunConfig
from chronorun.config.paths import conf_dir, config_groups
from chronorun.config.run import RunConfig
from chronorun.config.yaml_files import read_yaml, wrong
from chronorun.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class ConfigFiles:
    """The config files to compose: a root, a folder, and optionally a folder of the user."""

    folder: Path
    extra: Path | None = None
    name: str = "train"
    schema: type[RunConfig] = RunConfig

    @property
    def is_bench(self) -> bool:
        """Whether the root is a bench's."""
        return self.schema is BenchRunConfig

    @property
    def base(self) -> str:
        """The root of ours that this one is built on."""
        return "bench" if self.is_bench else "train"

    @property
    def root(self) -> Path:
        """The root's file."""
        return self.places()[0] / f"{self.name}.yaml"

    def places(self) -> list[Path]:
        """Return the folders, starting with the one that holds the root file."""
        if self.extra is None:
            return [self.folder]
        both = [self.folder, self.extra]
        root = f"{self.name}.yaml"
        return both[::-1] if (self.extra / root).is_file() else both

    def with_defaults(self) -> Iterator[Path]:
        """Yield the files whose defaults list may be wrong: the root and the user's files."""
        if self.root.is_file():
            yield self.root
        if self.extra is not None:
            yield from sorted(self.extra.rglob("*.yaml"))

    def groups(self) -> dict[str, list[str]]:
        """Return the groups of both folders and their options."""
        found = config_groups(self.folder, bench=self.is_bench)
        for group, options in (
            config_groups(self.extra, bench=self.is_bench) if self.extra else {}
        ).items():
            found[group] = sorted({*found.get(group, []), *options})
        return found


def with_our_groups(files: ConfigFiles) -> ConfigFiles:
    """Let a complete root in another folder (``--config-path``) find our groups."""
    if files.extra is None and files.folder != conf_dir() and is_complete(files):
        return replace(files, folder=conf_dir(), extra=files.folder)
    return files


def is_complete(files: ConfigFiles) -> bool:
    """Return whether the root has no defaults list. Raises UserError if it is empty."""
    if not files.root.is_file() or files.root == conf_dir() / f"{files.base}.yaml":
        return False
    _, content = read_yaml(files.root)
    if not content:
        raise wrong(files.root, 1, "empty", f"keys and values, or defaults: [{files.base}, _self_]")
    return "defaults" not in content


def primary(files: ConfigFiles, overrides: Sequence[str]) -> str:
    """Return the name under which Hydra finds the root; a complete one is laid over ours.

    Raises UserError if a group on the command line cannot win over the root.
    """
    if not is_complete(files):
        return files.name
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    _, ours = read_yaml(conf_dir() / f"{files.base}.yaml")
    header, theirs = read_yaml(files.root)
    if header["package"] not in (None, "_global_"):
        raise wrong(files.root, 1, f"package {header['package']}", "_global_, or none, in a root")
    late = set(_chosen_groups(files, overrides))
    defaults = list(_ordered(ours.pop("defaults"), late))
    name = f"{files.root.stem}-on-{files.base}"
    node = {"defaults": defaults} | _plain(OmegaConf.merge(ours, theirs))
    ConfigStore.instance().store(name=name, node=node, provider=f"file://{files.root}")
    return name


def _plain(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _chosen_groups(files: ConfigFiles, overrides: Sequence[str]) -> Iterator[str]:
    """Yield the groups that come after the root's own values."""
    groups = files.groups()
    if files.is_bench:
        yield "arm"
    given = dict(text.lstrip("+~").partition("=")[::2] for text in overrides)
    for key, value in given.items():
        if key not in groups:
            continue
        group = key.partition("/")[0]
        if group not in given:
            raise UserError(
                f"configuration: {key}={value}, expected no part of a group with {files.root}, "
                f"which sets all of {group}; set its fields, as --help lists them"
            )
        yield key
        for option in value.split(","):
            yield from _overridden_by(files, key, option.strip("'\" "))


def _overridden_by(files: ConfigFiles, group: str, option: str) -> Iterator[str]:
    """Yield the groups that an option overrides (``override /scenario: too_many``)."""
    for place in files.places():
        path = place / group / f"{option}.yaml"
        if path.is_file():
            _, content = read_yaml(path)
            for entry in _entries(content):
                words = entry.split()
                if words[0] == "override":
                    yield words[-1].strip("/")
            return


def _entries(content: DictConfig) -> Iterator[str]:
    """Yield a defaults list's files and groups (``optional experiment``, ``_self_``)."""
    for item in content.get("defaults") or ():
        yield from (item,) if isinstance(item, str) else map(str, item)


def _ordered(defaults: Iterable[Any], late: set[str]) -> Iterator[Any]:
    """Yield our defaults list with the root's own values before the chosen groups."""
    plain = [dict(entry) if isinstance(entry, Mapping) else entry for entry in defaults]

    def group(entry: Any) -> str:
        return next(iter(entry)).split()[-1] if isinstance(entry, dict) else ""

    def overrides(entry: Any) -> bool:
        return isinstance(entry, dict) and next(iter(entry)).startswith("override ")

    own = [entry for entry in plain if entry != "_self_" and not overrides(entry)]
    yield from (entry for entry in own if group(entry) not in late)
    yield "_self_"
    yield from (entry for entry in own if group(entry) in late)
    # Hydra wants these at the end.
    yield from filter(overrides, plain)


def not_built_on_ours(files: ConfigFiles) -> UserError:
    """Return the error for a root whose defaults list lacks ours."""
    return UserError(
        f"configuration: {files.root}, expected {files.base} in its defaults list; "
        f"write defaults: [{files.base}, _self_], and override before a group: "
        f"{{override model: nano}}"
    )
