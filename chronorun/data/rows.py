"""Texts of files and data sets that hold rows, streamed through the ``datasets`` library."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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


def texts_of_file(file: TextFile, config: DataConfig) -> Iterator[str]:
    """Yield the rows of a file, or a compressed text in pieces of about a megabyte.

    Raises UserError in one line for a file that cannot be read as what its name says it is.
    """
    builder = builder_of(file.path)
    suffixes = [s for s in file.path.suffixes[-2:] if s.lower() in (*_COMPRESSED, *_BUILDERS)]
    what, kind = f"files={file.shown}", "".join(suffixes)
    if file.path.with_suffix("").suffix.lower() == ".tar":
        raise UserError(
            f"data: {what} is an archive of files, expected a compressed text; "
            f"unpack it and name the files in it"
        )
    try:
        if builder == "text":
            yield from _pieces(file.path, config.errors.value)
        else:
            assert builder is not None
            with _linked(file.path, f"file{kind.lower()}") as link:
                if builder == "parquet" and _is_empty_parquet(link):
                    return
                cache = str(link.parent / "cache")
                rows = open_rows(builder, data_files=str(link), cache_dir=cache)
                yield from column_texts(rows, config.column, what)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: {what} is not UTF-8 ({error.reason}), expected UTF-8 text; convert it"
            f"{', or add data.errors=replace' if builder == 'text' else ''}"
        ) from None
    except Exception as error:  # the library and its readers raise many kinds
        raise UserError(
            f"data: {what} cannot be read as {kind.lstrip('.')} "
            f"({_first_line(error)}), expected what its name says; mend the file or rename it"
        ) from error


@contextmanager
def _linked(path: Path, name: str) -> Iterator[Path]:
    """Yield a link to a file under a plain name; the library takes names for patterns and URLs."""
    with tempfile.TemporaryDirectory(prefix="chronorun-") as folder:
        link = Path(folder) / name
        link.symlink_to(path.absolute())
        yield link


def _is_empty_parquet(path: Path) -> bool:
    import pyarrow.parquet

    rows: int = pyarrow.parquet.read_metadata(path).num_rows
    return rows == 0


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
                f"add data.column={next((k for k, v in row.items() if isinstance(v, str)), 'NAME')}"
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


def _pieces(path: Path, errors: str) -> Iterator[str]:
    """Yield whole lines of a compressed text, about a megabyte at a time."""
    import gzip

    opener: Any = gzip.open
    if path.suffix.lower() == ".zst":
        import zstandard

        opener = zstandard.open
    with opener(path, "rt", encoding="utf-8", errors=errors) as file:
        while lines := file.readlines(_PIECE):
            yield "".join(lines)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
