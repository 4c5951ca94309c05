"""The lifecycle in a run's summary."""

from __future__ import annotations

from chronorun.training.summary import lifecycle_summary


def test_without_a_lifecycle_all_counts_are_zero_and_nothing_was_looked_at() -> None:
    assert lifecycle_summary(None) == {
        "lifecycle": dict.fromkeys(("SPAWN", "PRUNE", "SPLIT", "MERGE", "REVIVE", "ROLLBACK"), 0)
    }
