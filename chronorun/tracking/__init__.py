"""Progress on the screen, ``train.log`` and W&B. A tracker that fails never stops a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronorun.core.exports import lazy_exports

if TYPE_CHECKING:
    from chronorun.tracking.group import TrackerGroup, build_trackers
    from chronorun.tracking.protocol import RunInfo, Tracker

__all__ = ["RunInfo", "Tracker", "TrackerGroup", "build_trackers"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "RunInfo": "protocol",
        "Tracker": "protocol",
        "TrackerGroup": "group",
        "build_trackers": "group",
    },
)
