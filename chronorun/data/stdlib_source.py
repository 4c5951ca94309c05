"""The default corpus: the running Python's own documentation prose and source code.

Needs no download. Two domains: ``prose`` (the help topics, the docstrings of the library, the text
files it ships) and ``code`` (its modules with those docstrings taken out). A module's prose and its
code carry the same document name, so that they land in the same split.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document
from chronorun.data.source import Reading
from chronorun.errors import UserError

# Tests, vendored installers, and tables that are neither prose nor code.
_SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "lib-dynload",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
    }
)
_SKIPPED_FILES = ("_sysconfigdata", "Grammar", "PatternGrammar")


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the interpreter and its library's files by path, size and time."""
    digest = hashlib.sha256()
    for path, name in _library_files():
        status = path.stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return {"python": sys.version, "library": digest.hexdigest()}


def read(config: DataConfig) -> Reading:
    """Read the topics, then every file of the library in the order of their names."""
    documents = list(_read_topics())
    for path, name in _library_files():
        if path.suffix == ".txt":
            text = path.read_text(encoding="utf-8", errors="replace")
            documents.append(Document(name, "prose", _ended(text)))
        else:
            documents.extend(_read_module(path, name))
    if not any(document.domain == "code" for document in documents):
        raise UserError(
            f"data: source=stdlib found no modules in {_library_root()}, expected the source "
            f"files of the standard library; use data=text data.files=book.txt"
        )
    return Reading(_without_repeats(documents))


def separate_docstrings(source: str) -> tuple[str, list[str]]:
    """Return the module without its docstrings, and the docstrings, unindented.

    Only docstrings that have their lines to themselves are taken; a body that was nothing else
    keeps an ellipsis. Raises SyntaxError for text that does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    docstrings: list[str] = []
    for body, node in _docstring_nodes(tree):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        starts_line = not lines[first][: node.col_offset].strip()
        ends_line = not lines[last].encode()[node.end_col_offset or 0 :].strip()
        if not (starts_line and ends_line):
            continue
        docstrings.append(inspect.cleandoc(str(node.value.value)))  # type: ignore[attr-defined]
        indent = lines[first][: node.col_offset]
        for index in range(first, last + 1):
            lines[index] = ""
        if len(body) == 1:
            lines[first] = f"{indent}...\n"
    return "".join(lines), docstrings


def _docstring_nodes(tree: ast.Module) -> Iterator[tuple[list[ast.stmt], ast.Expr]]:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        (node.body, node.body[0])
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    ]
    for body, statement in sorted(found, key=lambda pair: pair[1].lineno):
        value = statement.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield body, statement


def _read_module(path: Path, name: str) -> list[Document]:
    try:
        with tokenize.open(path) as file:
            code, docstrings = separate_docstrings(file.read())
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []  # data for a tool, not a module of this Python
    prose = "\n\n".join(text for text in docstrings if text)
    found = [Document(name, "prose", _ended(prose)), Document(name, "code", _ended(code))]
    return [document for document in found if document.text.strip()]


def _read_topics() -> Iterator[Document]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions package them apart
        return
    for topic in sorted(topics):
        yield Document(f"topics/{topic}", "prose", _ended(topics[topic]))


def _library_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files() -> Iterator[tuple[Path, str]]:
    root = _library_root()
    found: list[tuple[str, Path]] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS and not name.startswith("config-")
        ]
        for file in files:
            if file.endswith((".py", ".txt")) and not file.startswith(_SKIPPED_FILES):
                path = Path(folder) / file
                found.append((path.relative_to(root).as_posix(), path))
    for name, path in sorted(found):
        yield path, name


def _ended(text: str) -> str:
    """End a document with an empty line; drop what UTF-8 cannot write."""
    return text.encode("utf-8", "replace").decode().strip("\n") + "\n\n"


def _without_repeats(documents: list[Document]) -> list[Document]:
    seen: set[str] = set()
    unique: list[Document] = []
    for document in documents:
        if document.text not in seen:
            seen.add(document.text)
            unique.append(document)
    return unique
