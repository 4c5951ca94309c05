"""An option that another choice leaves without effect is named."""

from __future__ import annotations

import pytest

from chronorun.config.compose import compose_run
from chronorun.config.ignored import ignored_options


@pytest.mark.parametrize(
    ("overrides", "ignored"),
    [
        (["data.files=x"], ["data.files"]),
        (["data=text", "data.files=x"], []),
        (["optimizer.wsd_decay_fraction=0.5"], ["optimizer.wsd_decay_fraction"]),
        (["optimizer=adamw_wsd", "optimizer.wsd_decay_fraction=0.5"], []),
        (["data.synthetic_seed=1", "data.synthetic_domains=3"], ["data.synthetic_domains"] * 2),
        (["model=nano"], []),
    ],
)
def test_only_what_was_given_and_has_no_effect_is_named(
    overrides: list[str], ignored: list[str]
) -> None:
    config, _ = compose_run(overrides)
    messages = ignored_options(config, {text.partition("=")[0] for text in overrides})
    assert len(messages) == len(ignored)
    assert all(" has no effect: " in message for message in messages)
