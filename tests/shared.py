"""Folders that all worker processes of a test run have in common, filled by whichever is first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


class Shared:
    """Makes a thing once for all worker processes of a test run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder of that name; ``make`` fills it when it is first asked for."""
        folder, done = self.root / name, self.root / f"{name}.done"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder


def common_root(base: Path) -> Path:
    """Return the folder that the temporary folders of all workers lie in."""
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
