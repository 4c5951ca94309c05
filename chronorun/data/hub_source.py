"""Corpora of the Hugging Face Hub. Needs a network on first use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig, Source
from chronorun.core.files import expand_user
from chronorun.data.documents import Document
from chronorun.data.rows import column_texts, open_rows
from chronorun.data.source import Reading
from chronorun.data.text_source import content_name
from chronorun.errors import UserError

REPOSITORIES = {
    Source.tinystories: "roneneldan/TinyStories",
    Source.tinyshakespeare: "karpathy/tiny_shakespeare",
}


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Name the data set: one of the Hub is taken as fixed, a folder is known by its files."""
    path = _repository(config)
    found: dict[str, Any] = {
        "repository": path,
        "name": config.name,
        "split": config.split,
        "column": config.column,
    }
    folder = _local(path)
    if folder is not None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        found["files"] = [
            [file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
            for file in files
        ]
    return found


def read(config: DataConfig) -> Reading:
    """Stream rows until ``max_bytes`` are there."""
    reading = Reading((), divisible=True)
    reading.documents = _documents(config, reading)
    return reading


def _repository(config: DataConfig) -> str:
    path = REPOSITORIES.get(config.source, config.path)
    assert path is not None, "checked by the configuration"
    return path


def _documents(config: DataConfig, reading: Reading) -> Iterator[Document]:
    domain = "text" if config.source is Source.hub else config.source.value
    size = 0
    for text in _texts(config):
        if size >= config.max_bytes:
            reading.stopped_early = True
            return
        document = Document(content_name(text), domain, text)
        size += document.n_bytes
        yield document


def _texts(config: DataConfig) -> Iterator[str]:
    path = _repository(config)
    what = f"source={config.source.value} ({path})"
    folder = _local(path)
    names = [] if config.name is None else [config.name]
    try:
        rows = open_rows(path if folder is None else str(folder), *names, split=config.split)
        yield from column_texts(rows, config.column, what)
    except UserError:
        raise
    except Exception as error:  # the library and its HTTP client raise many kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        # Others that are no plain ValueError come from what is in the files.
        if type(error) is ValueError:
            raise UserError(
                f"data: {what} has no such part ({first}), expected data.name and data.split "
                f"of that data set; correct them"
            ) from error
        if folder is not None:
            raise UserError(
                f"data: {what} cannot be read ({type(error).__name__}: {first}), expected a data "
                f"set; see what is in the folder"
            ) from error
        raise UserError(
            f"data: {what} cannot be reached "
            f"({type(error).__name__}); check the network, or use data=stdlib or data=text"
        ) from error


def _local(path: str) -> Path | None:
    """Return the folder that a path means; None for a name on the Hub. Raises UserError."""
    unknown = UserError(f"data: path={path} is in a home folder that is not known; write it out")
    folder = expand_user(path, unknown)
    if folder.is_dir():
        whole = str(folder.resolve())
        if "::" in whole or any(sign in whole for sign in "[]*?"):
            # The library looks for files in it by patterns, and follows links first.
            raise UserError(
                f"data: path={whole}, expected a folder without [ ] * ? and :: in its path; "
                f"rename it, or use data=text data.files={path}/FILE"
            )
        return folder
    if folder.exists() or path.startswith(("/", "./", "../", "~")):
        raise UserError(
            f"data: path={path} is no folder, expected a data set of the Hub or a folder of one; "
            f"check the path, or use data=text data.files={path} for a file"
        )
    return None
