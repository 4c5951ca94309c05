"""Where the configuration groups lie."""

from __future__ import annotations

from pathlib import Path

from chronorun.errors import StorageError


def conf_dir() -> Path:
    """Return the folder of the Hydra configuration groups.

    The repository's ``conf/`` comes first when this code runs from a checkout: an editable install
    leaves a copy from install time beside the package, which would hide later edits.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    candidates = [package / "conf"]
    if (package.parent / "pyproject.toml").is_file():
        candidates.insert(0, checkout)
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise StorageError(f"installation: {package / 'conf'} is missing; reinstall chronorun")


def group_options(group: str) -> list[str]:
    """Return the options of a group, such as ``data`` or ``lifecycle/spawn``."""
    folder = conf_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def groups() -> list[str]:
    """Return the names of all groups, sub-groups with a slash."""
    root = conf_dir()
    found = {path.parent.relative_to(root).as_posix() for path in root.glob("*/**/*.yaml")}
    return sorted(found - {"."})
