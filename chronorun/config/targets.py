"""Refuse configuration that would call code, except installed Hydra plugins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chronorun.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

NODES = ("launcher", "sweeper", "callbacks", "job_logging", "hydra_logging")
"""Parts of Hydra's node that it instantiates."""
_CALLING = {"_target_": "", "()": r".*_logging\b", "class": r".*_logging\b"}
"""Keys whose value is called, and the nodes (a regular expression) in which it is."""
_ALLOWED = (
    (r"hydra\.callbacks\.\w+\._target_", r"hydra\.experimental\.callbacks\.[A-Z]\w+"),
    (r"hydra\.sweeper\.sampler\._target_", r"optuna\.samplers\.[A-Z]\w+"),
    (r"hydra\.\w+_logging\..*\.(class|\(\))", r"(logging(\.handlers)?|colorlog)\.[A-Z]\w+"),
)


def refuse_targets(hydra: DictConfig) -> None:
    """Refuse callables in Hydra's own node. Raises UserError naming key and value.

    Allowed are installed launchers and sweepers, logging classes, and Hydra's callbacks, one of
    which pickles a run for ``--experimental-rerun``.
    """
    for name in NODES:
        for path, value in _called(_plain(hydra, name), f"hydra.{name}"):
            if not _is_allowed(path, value):
                raise UserError(
                    f"configuration: {path}={value}, expected nothing that is called: only "
                    f"installed launchers and sweepers are, as hydra/launcher=NAME; drop it"
                )


def _plain(hydra: DictConfig, name: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = hydra[name]
    if not OmegaConf.is_config(node):
        return node
    try:
        # An interpolation may resolve to a whole node.
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=False)


def _called(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}.{key}"
            if key in _CALLING and re.match(_CALLING[key], path):
                yield where, value
            yield from _called(value, where)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _called(value, f"{path}[{place}]")


def _is_allowed(path: str, value: Any) -> bool:
    if path in ("hydra.launcher._target_", "hydra.sweeper._target_"):
        return value in _plugins()
    return any(re.fullmatch(p, path) and re.fullmatch(v, str(value)) for p, v in _ALLOWED)


def _plugins() -> set[str]:
    from hydra.core.plugins import Plugins
    from hydra.plugins.plugin import Plugin

    return {f"{kind.__module__}.{kind.__name__}" for kind in Plugins.instance().discover(Plugin)}
