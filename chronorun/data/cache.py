"""The token cache: one folder a corpus and tokenizer, written whole or not at all.

A folder holds ``<split>.bin`` (uint16, little endian, domain after domain), ``tokenizer.json`` and
``meta.json`` with their sizes and sha256. It is built beside its place under a lock and renamed
into it; what does not match its own hashes is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from chronorun.config.data import DataConfig
from chronorun.core.files import fsync_dir, sha256_file
from chronorun.errors import StorageError

CACHE_FORMAT = 1
META_FILE = "meta.json"

Meta = dict[str, Any]


def cache_root(config: DataConfig) -> Path:
    """Return ``data.cache_dir``, else $CHRONORUN_CACHE, else the user's cache folder."""
    chosen = config.cache_dir or os.environ.get("CHRONORUN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "chronorun"


def cache_key(identity: Mapping[str, Any]) -> str:
    """Return a short name for everything that decides the tokens."""
    text = json.dumps({"format": CACHE_FORMAT, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def open_or_build(root: Path, name: str, build: Callable[[Path], Meta]) -> tuple[Path, Meta]:
    """Return a verified cache folder and its meta, building it when missing or damaged.

    ``build`` fills an empty folder and returns the meta without the file hashes. Processes that
    want the same folder at once wait for the first. Raises StorageError when nothing can be written.
    """
    folder = root / name
    meta = read_verified(folder)
    if meta is not None:
        return folder, meta
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            meta = read_verified(folder)  # another process may have built it meanwhile
            if meta is None:
                meta = _build(root, folder, build)
    except OSError as error:
        raise StorageError(
            f"token cache: cache_dir={root}, expected a folder with room that can be written "
            f"({error.strerror or error}); set data.cache_dir=FOLDER"
        ) from error
    return folder, meta


def read_verified(folder: Path) -> Meta | None:
    """Return the meta of a folder whose files match it, or None."""
    try:
        meta: Meta = json.loads((folder / META_FILE).read_bytes())
        for file, expected in meta["files"].items():
            path = folder / file
            if path.stat().st_size != expected["size"] or sha256_file(path) != expected["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta


def _build(root: Path, folder: Path, build: Callable[[Path], Meta]) -> Meta:
    for left_behind in root.glob(f".{folder.name}.*"):  # of a process that was killed; we hold
        shutil.rmtree(left_behind, ignore_errors=True)  # the lock, so nobody is at work there
    workdir = Path(tempfile.mkdtemp(dir=root, prefix=f".{folder.name}."))
    try:
        meta = build(workdir)
        meta["files"] = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(workdir.iterdir())
        }
        (workdir / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        for path in workdir.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        workdir.chmod(0o755)
        if folder.is_dir():  # damaged, or it would have been used
            shutil.rmtree(folder)
        workdir.rename(folder)
        fsync_dir(root)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return meta
