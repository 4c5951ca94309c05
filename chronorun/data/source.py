"""What a corpus source is, and which one a configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from chronorun.config.data import DataConfig, Source
from chronorun.data.documents import Document


@dataclass
class Reading:
    """The documents of a source, read while they are asked for, and what is known of the rest."""

    documents: Iterable[Document]
    divisible: bool = False
    """Return whether a long document may be cut into blocks that land in different splits."""
    known_bytes: int | None = None
    """Size of all text there is, where less of it is read than that; None when it is not known."""
    stopped_early: bool = False
    """Set once a stream was left before its end, because ``max_bytes`` were there."""
    empty_files: int = 0
    """Files that were left out because there is nothing in them."""


class SourceModule(Protocol):
    """The two functions every source module has."""

    def fingerprint(self, config: DataConfig) -> dict[str, Any]:
        """Return JSON data that changes when the text may have changed; must be cheap.

        Raises UserError for a source that is not there.
        """

    def read(self, config: DataConfig) -> Reading:
        """Read the text in its natural order."""


def source_module(source: Source) -> SourceModule:
    """Import the module that reads the source."""
    names = {
        Source.stdlib: "stdlib_source",
        Source.text: "text_source",
        Source.sotu: "sotu_source",
        Source.tinystories: "hub_source",
        Source.tinyshakespeare: "hub_source",
        Source.hub: "hub_source",
        Source.synthetic: "synthetic_source",
    }
    module: Any = importlib.import_module(f"chronorun.data.{names[source]}")
    found: SourceModule = module
    return found
