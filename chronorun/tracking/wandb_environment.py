"""The environment variables of W&B, and a folder for it where there is no home folder."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

PROJECT = "chronorun"
_VARIABLES = {
    "id": ("WANDB_RUN_ID",),
    "name": ("WANDB_NAME", "WANDB_RUN_NAME"),
    "dir": ("WANDB_DIR", "WANDB_ROOT_DIR"),
    "save_code": ("WANDB_SAVE_CODE", "WANDB_DISABLE_CODE"),
    "x_disable_stats": ("WANDB_X_DISABLE_STATS", "WANDB__DISABLE_STATS"),
}
"""What speaks about a setting, where it is not ``WANDB_`` and the setting's name alone."""


def left_open(
    defaults: dict[str, Any], environment: MutableMapping[str, str] = os.environ
) -> dict[str, Any]:
    """Return those of our defaults that no variable of W&B's (``WANDB_NAME``, ...) speaks about."""
    return {
        name: value
        for name, value in defaults.items()
        if not any(map(environment.get, _VARIABLES.get(name, (f"WANDB_{name.upper()}",))))
    }


def give_home(folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let W&B keep its own files in ``folder`` where the user's home folder takes none.

    W&B would otherwise print its log on the screen, or not start.
    """
    home = environment.get("HOME") or _home()
    cache = environment.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else None)
    if cache is None or not _takes_files(Path(cache, "wandb")):
        environment.setdefault("WANDB_CACHE_DIR", str(folder.absolute() / "cache"))
    if home is None:
        environment.setdefault("WANDB_CONFIG_DIR", str(folder.absolute() / "config"))
        environment.setdefault("NETRC", str(folder.absolute() / "netrc"))


def _home() -> str | None:
    home = os.path.expanduser("~")  # noqa: PTH111
    return None if home == "~" else home


def _takes_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
