"""Find the configuration groups and their options in the folders, without Hydra."""

from __future__ import annotations

from pathlib import Path

from chronorun.errors import StorageError


def conf_dir() -> Path:
    """Return the folder of the configuration groups.

    The repository's ``conf/`` comes first when this code runs from a checkout: an editable install
    leaves a copy from install time in site-packages, which would hide later edits.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "conf"]
    if (package.parent / "pyproject.toml").is_file():
        candidates.insert(0, package.parent / "conf")
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise StorageError(f"installation: {package / 'conf'} is missing; reinstall chronorun")


BENCH_GROUPS = ("arm", "bench")


def config_groups(folder: Path, *, bench: bool = False) -> dict[str, list[str]]:
    """Return the groups below a config folder (sub-groups with a slash) and their options.

    Groups that only a bench has are left out unless ``bench``.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*/**/*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        # Hydra lists its own groups (hydra/launcher, ...).
        ours = not group.startswith((".", "hydra/")) and group != "hydra"
        if ours and (bench or group not in BENCH_GROUPS):
            found.setdefault(group, []).append(path.stem)
    return found


def groups(*, bench: bool = False) -> list[str]:
    """Return the names of all groups, sub-groups with a slash."""
    return sorted(config_groups(conf_dir(), bench=bench))


def group_options(group: str) -> list[str]:
    """Return the options of a group, such as ``data`` or ``lifecycle/spawn``."""
    return config_groups(conf_dir(), bench=True).get(group, [])


def option_summary(group: str, option: str) -> str:
    """Return the comment at the top of an option's file; empty if there is none."""
    words: list[str] = []
    for line in (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            words.append(line.lstrip("# ").strip())
    return " ".join(words)
