"""What Hydra and OmegaConf say about a wrong configuration, in one line a person can act on."""

from __future__ import annotations

from collections.abc import Sequence

from chronorun.config.bench import BenchRunConfig
from chronorun.config.describe import all_fields, flatten
from chronorun.config.suggest import next_step
from chronorun.errors import UserError

SEE_HELP = "see chronorun train --help"
SEE_HYDRA_HELP = "see chronorun train --hydra-help"


def readable_error(error: BaseException, job: Sequence[str]) -> UserError:
    """Return an error of composing ``job`` (its overrides) as a UserError of one line."""
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    keys = [line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")]
    if "Could not find '" in str(cause):
        return UserError(_missing_file(lines))
    if not keys or not keys[0]:
        message = " ".join(lines[:2]).partition(" Check that")[0] or type(cause).__name__
        return UserError(f"configuration: {message.rstrip('.:')}; {SEE_HELP}")
    given = [
        text.partition("=")[2] for text in job if text.partition("=")[0].lstrip("+") == keys[0]
    ]
    if keys[0].partition(".")[0] == "hydra":
        return UserError(_wrong_hydra_key(keys[0]))
    return UserError(_wrong_field(keys[0], given[-1] if given else None, lines[0]))


def _missing_file(lines: Sequence[str]) -> str:
    """Explain a missing option of one of Hydra's own groups, such as ``hydra/launcher``."""
    line = next(line for line in lines if "Could not find '" in line)
    group, _, option = line.partition("Could not find '")[2].rstrip("'").rpartition("/")
    start = next((n for n, text in enumerate(lines) if text.startswith("Available options")), None)
    if start is None:
        return f"configuration: {group or option}, expected a config file; {SEE_HELP}"
    options = [text for text in lines[start + 1 :] if "'" not in text and ":" not in text]
    step = next_step(option, options, SEE_HYDRA_HELP)
    return f"configuration: {group}={option}, expected one of {', '.join(options)}; {step}"


def _wrong_hydra_key(key: str) -> str:
    from hydra.conf import HydraConf
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(OmegaConf.structured(HydraConf))
    known = [f"hydra.{name}" for name in flatten(node)]
    return (
        f"configuration: {key} does not fit, expected one of Hydra's keys with a value it takes; "
        f"{next_step(key, [name for name in known if name != key], SEE_HYDRA_HELP)}"
    )


def _wrong_field(key: str, given: str | None, message: str) -> str:
    fields = {info.key: info for info in all_fields(BenchRunConfig)}
    if "nterpolation" in message:
        return f"configuration: {key}: {message.rstrip('.')}; correct the reference"
    info = fields.get(key)
    if info is None:
        shown = f"{key}={given}" if given is not None else f"{key} (in a config file)"
        step = next_step(key, fields, SEE_HELP)
        return f"configuration: {shown}, expected a known key; {step}"
    quoted = message.partition("'")[2].partition("'")[0]
    wrong = given if given is not None else quoted
    where = "" if given is not None else " (in a config file)"
    step = next_step(wrong, info.choices, "correct the value")
    return f"configuration: {key}={wrong}{where}, expected {info.expected}; {step}"
