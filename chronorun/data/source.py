"""What a corpus source is, and which one a configuration names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from chronorun.config.data import DataConfig, Source
from chronorun.data.documents import Document


class SourceModule(Protocol):
    """The two functions every source module has."""

    def fingerprint(self, config: DataConfig) -> dict[str, Any]:
        """Return JSON data that changes when the text may have changed; must be cheap.

        Raises UserError for a source that is not there.
        """

    def read(self, config: DataConfig, workdir: Path) -> list[Document]:
        """Read at most ``max_bytes`` of text in its natural order; ``workdir`` is scratch space."""


def source_module(source: Source) -> SourceModule:
    """Import the module that reads the source."""
    names = {
        Source.stdlib: "stdlib_source",
        Source.text: "text_source",
        Source.sotu: "sotu_source",
        Source.tinystories: "hub_source",
        Source.tinyshakespeare: "hub_source",
        Source.synthetic: "synthetic_source",
    }
    module: Any = importlib.import_module(f"chronorun.data.{names[source]}")
    found: SourceModule = module
    return found
