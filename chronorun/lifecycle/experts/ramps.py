"""Logit offsets that rise as a newborn settles in: a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """From ``base + start`` at ``integrated_step`` to ``base``, ``length_steps`` later."""

    integrated_step: int
    length_steps: int
    base: float = 0.0
    start: float = 0.0

    def offset(self, step: int) -> float:
        """Return the logit offset in force at a step."""
        if self.is_over(step):
            return self.base
        left = 1.0 - (step - self.integrated_step) / self.length_steps
        return self.base + self.start * left

    def is_over(self, step: int) -> bool:
        """Return whether the ramp has reached its base."""
        return step - self.integrated_step >= self.length_steps
