"""Messages about values outside their declared range."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from chronorun.config.model import ModelConfig
from chronorun.config.run import RunConfig
from chronorun.config.training import OptimizerConfig
from chronorun.errors import UserError


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        # The key is what a person writes as an override.
        (lambda: RunConfig(seed=-1), "seed=-1, expected >= 0"),
        (lambda: ModelConfig(top_k=0), "model.top_k=0, expected >= 1"),
        (lambda: OptimizerConfig(lr=math.nan), "optimizer.lr=nan, expected > 0"),
    ],
)
def test_a_value_out_of_range_is_named_by_its_override(
    make: Callable[[], object], complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == (
        f"configuration: {complaint}; correct the override or the config file"
    )
