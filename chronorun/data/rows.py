"""Texts of files and data sets that hold rows, streamed through the ``datasets`` library."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig
from chronorun.data.files import TextFile
from chronorun.errors import UserError

_COMPRESSED = (".gz", ".zst")
_BUILDERS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}
_PIECE = 1 << 20  # characters of a compressed text that make one document, before it is cut


def builder_of(path: Path) -> str | None:
    """Return the library's reader for a file by its suffixes; None for plain text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in _COMPRESSED
    kind = suffixes[-2:-1] if compressed else suffixes[-1:]
    named = _BUILDERS.get(kind[0]) if kind else None
    return named or ("text" if compressed else None)


def texts_of_file(file: TextFile, config: DataConfig, workdir: Path) -> Iterator[str]:
    """Yield the rows of a file, or a compressed text in pieces of about a megabyte.

    Raises UserError in one line for a file that cannot be read as what its name says it is.
    """
    builder = builder_of(file.path)
    assert builder is not None
    # The library takes names for patterns and addresses; a link of ours holds none of that.
    workdir.mkdir(parents=True, exist_ok=True)
    suffixes = [s for s in file.path.suffixes[-2:] if s.lower() in (*_COMPRESSED, *_BUILDERS)]
    link = workdir / f"file{''.join(suffixes).lower()}"
    link.unlink(missing_ok=True)
    link.symlink_to(file.path)
    options: dict[str, Any] = {}
    if builder == "text":
        options = {"keep_linebreaks": True, "encoding_errors": config.errors.value}
    what = f"files={file.shown}"
    try:
        rows = open_rows(builder, data_files=str(link), cache_dir=str(workdir), **options)
        if builder == "text":
            yield from _pieces(row["text"] for row in rows)
        else:
            yield from column_texts(rows, config.column, what)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: {what} is not UTF-8 ({error.reason}), expected UTF-8 text; "
            f"convert it, or add data.errors=replace"
        ) from None
    except Exception as error:  # the library and its readers raise many kinds
        raise UserError(
            f"data: {what} cannot be read as {''.join(suffixes).lstrip('.')} "
            f"({_first_line(error)}), expected what its name says; mend the file or rename it"
        ) from error


def open_rows(*args: Any, split: str = "train", **options: Any) -> Iterable[Mapping[str, Any]]:
    """Open rows as a stream, without the library's progress bars and log lines."""
    from chronorun.data.library import load_dataset_quietly

    # Failures come back as exceptions; the lines that go with them are not for our terminal.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    rows: Iterable[Mapping[str, Any]] = load_dataset_quietly(
        *args, split=split, streaming=True, **options
    )
    return rows


def column_texts(rows: Iterable[Mapping[str, Any]], column: str, what: str) -> Iterator[str]:
    """Yield the text of one column, each ending in a line end; rows without text are left out.

    Raises UserError when there is no such column, or when it does not hold text.
    """
    for row in rows:
        if column not in row:
            raise UserError(
                f"data: {what} has no column {column}, expected one of {', '.join(sorted(row))}; "
                f"add data.column={min(row, default='NAME')}"
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"data: column={column} of {what} holds {type(text).__name__}, expected text; "
                f"choose another with data.column=NAME"
            )
        if text:
            text = text.encode("utf-8", "replace").decode()
            yield text if text.endswith("\n") else text + "\n"


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
