"""The manifest of a checkpoint folder, and the checks a file must pass before it is parsed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from chronorun.core.files import sha256_file
from chronorun.errors import StorageError

KINDS = ("model", "optimizer", "state")
FILES = {f"{kind}.safetensors" for kind in KINDS} | {"state.json"}
MANIFEST = "MANIFEST.json"
SCHEMA_VERSION = 1


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """Size and hash of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What ``MANIFEST.json`` says of the other files; ``sha256`` is that of all it says itself."""

    schema_version: int
    step: int
    files: dict[str, Entry]
    # A checkpoint of before this was known has none.
    sha256: str = ""


def make_manifest(folder: Path, step: int) -> Manifest:
    """Return the manifest of the files in a folder that is about to become a checkpoint."""
    files = {
        name: Entry((folder / name).stat().st_size, sha256_file(folder / name))
        for name in sorted(FILES)
    }
    manifest = Manifest(SCHEMA_VERSION, step, files)
    manifest.sha256 = _own_sha256(manifest)
    return manifest


def _own_sha256(manifest: Manifest) -> str:
    plain = Manifest(manifest.schema_version, manifest.step, manifest.files)
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()


def bad_file(path: Path, what: str) -> StorageError:
    """Return the error of a checkpoint that cannot be trusted."""
    return StorageError(f"checkpoint: {path} {what}; resume from another checkpoint")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest; check names and sizes. Raises StorageError naming the first bad file."""
    if not path.is_dir() or path.is_symlink():
        raise bad_file(path, "is not a checkpoint folder")
    for item in sorted(path.iterdir()):
        if item.name not in FILES | {MANIFEST} or item.is_symlink() or not item.is_file():
            raise bad_file(item, "does not belong to a checkpoint")
    for name in sorted(FILES | {MANIFEST}):
        if not (path / name).exists():
            raise bad_file(path / name, "is missing")
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_file(path / MANIFEST, f"is not a manifest ({error})") from error
    if manifest.schema_version != SCHEMA_VERSION:
        found = manifest.schema_version
        raise bad_file(path / MANIFEST, f"has schema_version={found}, expected {SCHEMA_VERSION}")
    if f"step_{manifest.step:08d}" != path.name:
        raise bad_file(path / MANIFEST, f"is of step {manifest.step}, expected that of {path.name}")
    if set(manifest.files) != FILES:
        raise bad_file(path / MANIFEST, f"lists {', '.join(sorted(manifest.files)) or 'no file'}")
    if manifest.sha256 and manifest.sha256 != _own_sha256(manifest):
        # Otherwise a damaged hash would accuse a sound file.
        raise bad_file(path / MANIFEST, "differs from its own sha256")
    for name, entry in sorted(manifest.files.items()):
        size = (path / name).stat().st_size
        if size != entry.bytes:
            raise bad_file(path / name, f"has {size} bytes, expected {entry.bytes}")
    return manifest


def read_file(path: Path, entry: Entry) -> bytes:
    """Return the bytes that were checked, so that nothing unchecked is ever parsed."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise bad_file(path, "differs from its sha256")
    return data
