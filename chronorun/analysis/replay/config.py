"""The configuration that a run decided by, and what overrides would make of it. No Hydra run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.lines import Difference, Differs, first_difference
from chronorun.config.compose import compose_run, to_run_config
from chronorun.config.describe import all_fields, show_value
from chronorun.config.explain import readable_error
from chronorun.config.fields import marked
from chronorun.config.governance import ControlConfig, GovernanceConfig
from chronorun.config.lifecycle import LifecycleConfig
from chronorun.config.overrides import check_names, parse_overrides
from chronorun.config.paths import conf_dir, config_groups
from chronorun.config.run import RunConfig
from chronorun.config.saved import saved_config
from chronorun.config.scenario import ScenarioKind
from chronorun.core.run_files import CONFIG, MANIFEST
from chronorun.errors import StorageError, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

DECIDE = ("lifecycle", "governance")
"""Sections that decisions are derived from; the others only tell what the run was."""
SECTIONS = (*DECIDE, "optimizer", "model", "training", "scenario")
KEPT = {
    "lifecycle": marked(LifecycleConfig, "fixed_in_replay"),
    "governance": marked(GovernanceConfig, "fixed_in_replay"),
}
"""Fields that say what a run did, not how it decided: no override or preset changes them."""
REFUSED = tuple(f"{section}.{name}" for section, names in KEPT.items() for name in names)


class PlannedRunError(UserError):
    """A plan decided the run's edits: nothing in its logs could lead to them."""


@dataclass(frozen=True)
class Deciding:
    """What decisions are derived from, beside the logs."""

    run_id: str
    lifecycle: LifecycleConfig
    governance: GovernanceConfig
    warmup_steps: int
    n_layers: int
    n_experts: int
    eval_interval: int
    plants_removals: bool

    @property
    def control(self) -> ControlConfig:
        """The numbers that debt is measured by: the default ones where nobody governs."""
        return self.governance if self.governance.enabled else ControlConfig()


def deciding(config: RunConfig) -> Deciding:
    """Return what of a run's configuration enters its decisions."""
    return Deciding(
        config.run_id,
        config.lifecycle,
        config.governance,
        config.lifecycle.warmup(config.optimizer.warmup_steps),
        config.model.num_moe_layers,
        config.model.num_experts,
        config.training.eval_interval,
        config.scenario.kind is ScenarioKind.planted_two_mode,
    )


def load_config(folder: Path) -> RunConfig:
    """Read what a run's ``config.yaml`` says of its decisions; other sections are the defaults.

    Raises UserError where there is none, StorageError where it cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    saved = saved_config(folder, "replay")
    root = OmegaConf.structured(RunConfig)
    path = folder / CONFIG
    kind = OmegaConf.select(saved, "edits.kind")
    if kind not in (None, "policy"):
        raise PlannedRunError(
            f"replay: {path} says edits.kind={kind}, expected policy: a plan decided this run's "
            f"edits, not its signals; replay the run that it follows"
        )
    try:
        for name in SECTIONS:
            section = OmegaConf.select(saved, name)
            if section is not None:
                # Resolved where it stands: an interpolation may point to another section.
                plain = OmegaConf.to_container(section, resolve=True, enum_to_str=True)
                OmegaConf.update(root, name, plain)
        root.run_id = str(OmegaConf.select(saved, "run_id") or "")
    except OmegaConfBaseException as error:
        raise StorageError(f"{readable_error(error, [])} (in {path})") from error
    return to_run_config(root)


def check_manifest(run: Run) -> None:
    """Raise Differs where config.yaml and the manifest's copy of it decide differently."""
    from omegaconf import OmegaConf

    manifest = run.json(MANIFEST).get("config")
    if not isinstance(manifest, dict):
        return
    saved = OmegaConf.to_container(saved_config(run.folder, "replay"), resolve=False)
    assert isinstance(saved, dict)
    for name in SECTIONS:
        found = first_difference(saved.get(name), manifest.get(name), name)
        if found is not None:
            field, logged, derived = found
            line = _line_of(run.folder / CONFIG, field)
            raise Differs(Difference(CONFIG, line, field, logged, derived))


def _line_of(path: Path, field: str) -> int:
    """Return the line of a ``section.field`` in a YAML file; 0 where it cannot be told."""
    section, _, name = field.partition(".")
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.startswith(" "):
            inside = line.startswith(f"{section}:")
        elif inside and line.strip().startswith(f"{name}:"):
            return number
    return 0


def overridden(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration with overrides of what decides. Raises UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parsed, groups = parse_overrides(overrides), config_groups(conf_dir())
    check_names(parsed, groups, multirun=False, fields=all_fields())
    for override in parsed:
        _check_decides(override)
    config = dataclasses.replace(config)
    chosen = [o for o in parsed if o.key_or_group in groups]
    for name in DECIDE:
        _take_groups(config, name, [o for o in chosen if _section(o) == name])
    root = OmegaConf.structured(config)
    try:
        for override in parsed:
            if override.key_or_group not in groups:
                OmegaConf.update(root, override.key_or_group, override.value())
    except OmegaConfBaseException as error:
        raise readable_error(error, overrides) from error
    return to_run_config(root)


def _section(override: Override) -> str:
    return override.key_or_group.replace("/", ".").partition(".")[0]


def _check_decides(override: Override) -> None:
    key = override.key_or_group
    shown = f"{key}={override.get_value_string()}"
    if _section(override) not in DECIDE or (key in DECIDE and isinstance(override.value(), dict)):
        raise UserError(
            f"replay: {shown}, expected lifecycle.* or governance.* (or one of their groups): "
            f"anything else makes another run; train that one"
        )
    if key in REFUSED or f"{key}={override.value()}" in ("lifecycle=off", "governance=off"):
        raise UserError(
            f"replay: {shown}, expected a field that decisions are derived from; "
            f"train a run to see what it does"
        )


def _take_groups(config: RunConfig, section: str, chosen: Sequence[Override]) -> None:
    """Take the options of a section's groups; a whole one replaces what the run had there."""
    if not chosen:
        return
    texts = [f"{o.key_or_group}={o.value()}" for o in chosen]
    whole = [o for o in chosen if o.key_or_group == section]
    base = [] if whole or section != "lifecycle" else ["lifecycle=default"]
    composed, _ = compose_run([*base, *texts])
    if whole:
        kept = {name: getattr(getattr(config, section), name) for name in KEPT[section]}
        setattr(config, section, dataclasses.replace(getattr(composed, section), **kept))
        return
    changed = {
        name: getattr(composed.lifecycle, name)
        for o in chosen
        for name in _keys_of(str(o.key_or_group), str(o.value()))
    }
    config.lifecycle = dataclasses.replace(config.lifecycle, **changed)


def _keys_of(group: str, option: str) -> list[str]:
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{option}.yaml"))
    assert isinstance(loaded, dict)
    return [str(key) for key in loaded if key != "defaults"]


def changed_fields(before: RunConfig, after: RunConfig) -> dict[str, tuple[str, str]]:
    """Return the fields that two configurations decide differently by, as one would type them."""
    found = {}
    for section in DECIDE:
        old, new = (_plain(getattr(config, section)) for config in (before, after))
        for name in old:
            if old[name] != new[name]:
                found[f"{section}.{name}"] = (show_value(old[name]), show_value(new[name]))
    return found


def _plain(section: Any) -> Mapping[str, Any]:
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
