from .group import (
    TrackerGroup as TrackerGroup,
    build_trackers as build_trackers,
)
