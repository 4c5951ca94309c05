"""The ``datasets`` library, imported late (it costs seconds) and kept quiet."""

from __future__ import annotations

import logging
from typing import Any


def load_dataset_quietly(*args: Any, **kwargs: Any) -> Any:
    """Call ``datasets.load_dataset`` without progress bars on the user's terminal."""
    import datasets

    # Retries against an unreachable Hub are summed up in one line of ours.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*args, **kwargs)
    finally:
        if shown:
            datasets.enable_progress_bars()
