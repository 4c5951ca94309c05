"""Parse overrides of the command line, check their names, expand them into a sweep's jobs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chronorun.config.describe import FieldInfo
from chronorun.config.suggest import SEE_HELP, next_step
from chronorun.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# These decide the folder of all jobs of a sweep, so jobs cannot differ in them.
NOT_SWEPT = ("run_id", "output_dir", "resume")

LARGEST_PRODUCT = 1000
"""Jobs of a sweep that are all checked beforehand; of a larger one, only each value is."""


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse command-line overrides. Raises UserError for one that is not ``key=value``."""
    return [_normalised(_parse(text)) for text in overrides]


_FOREIGN = re.compile(r"""[^,=\[\]{}():'"\\]*[^\x00-\x7f,=\[\]{}():'"\\][^,=\[\]{}():'"\\]*""")
"""A value with letters that Hydra's grammar only accepts in quotes."""


def _parse(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException as error:
        key, sign, value = text.partition("=")
        if not value.isascii():
            with suppress(HydraException):
                again = _FOREIGN.sub(lambda found: quoted(found[0].strip()), value)
                return parser.parse_override(f"{key}{sign}{again}")
        raise UserError(
            f"command line: {text!r} is not understood, expected key=value or group=option; "
            f"quote a value with special characters: \"key='a=b, c'\""
        ) from error


def _normalised(override: Override) -> Override:
    """Let ``data.files=book.txt`` mean a list of one file, and ``run_id=007`` stay text.

    ``+experiment=x`` is what other Hydra programs want; here the group is in the defaults list.
    """
    if override.key_or_group == "experiment" and override.is_add():
        return _parse(str(override.input_line).lstrip("+"))
    if override.is_delete():
        return override
    key, value = override.get_key_element(), override.value()
    if override.is_sweep_override():
        return _one_file_each(override)
    if override.key_or_group == "data.files" and isinstance(value, str):
        # An interpolation may resolve to a list; with a backslash it is plain text.
        return override if "${" in value.replace("\\${", "") else _parse(f"{key}=[{quoted(value)}]")
    if override.key_or_group == "run_id" and isinstance(value, bool | int | float):
        return _parse(f"{key}={quoted(override.get_value_string().strip())}")
    return override


def _one_file_each(override: Override) -> Override:
    """Let ``-m data.files=a.txt,b.txt`` mean a list of one file in each job."""
    from hydra.core.override_parser.types import ChoiceSweep

    sweep = override.value()
    if override.key_or_group != "data.files" or not isinstance(sweep, ChoiceSweep):
        return override
    # A quoted string is no plain str; a list is one already.
    names = [str(getattr(item, "text", item)) for item in sweep.list if not isinstance(item, list)]
    if len(names) < len(sweep.list) or any("${" in name for name in names):
        return override
    lists = ",".join(f"[{quoted(name)}]" for name in names)
    return _parse(f"{override.get_key_element()}={lists}")


def quoted(text: str) -> str:
    """Quote a value so that Hydra takes it literally."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=text, quote=Quote.single).with_quotes()


def unnamed(keys: Iterable[str]) -> str:
    """Return the override that keeps shared keys out of the jobs' folder names."""
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, keys))}]"


def check_names(
    overrides: Iterable[Override],
    groups: Mapping[str, Sequence[str]],
    multirun: bool,
    fields: Sequence[FieldInfo],
) -> None:
    """Refuse unknown keys, groups and options, and sweeps without ``--multirun``."""
    known = {info.key for info in fields}
    known |= {".".join(key.split(".")[:n]) for key in known for n in range(1, key.count(".") + 1)}
    mappings = tuple(f"{info.key}." for info in fields if info.is_mapping)
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override():
            _check_sweep(override, multirun)
        if override.is_hydra_override() or key == "hydra":
            continue
        if override.is_delete():
            raise UserError(
                f"command line: ~{key} deletes what a run needs, expected key=value; "
                f"choose another value or option"
            )
        if key in groups:
            _check_options(override, groups[key])
        elif key not in known and not (mappings and key.startswith(mappings)):
            shown = f"{key}={override.get_value_string()}"
            step = next_step(key, known | set(groups), SEE_HELP)
            raise UserError(f"command line: {shown}, expected a known key or group; {step}")


def _check_sweep(override: Override, multirun: bool) -> None:
    key, value = override.key_or_group, override.get_value_string()
    if not multirun:
        raise UserError(
            f"command line: {key}={value}, expected one value; "
            f"add --multirun to run one job per value, or write {key}=[...] for a list"
        )
    if key in NOT_SWEPT:
        raise UserError(
            f"command line: {key}={value}, expected one value for the whole sweep; "
            f"each job has its own folder below it"
        )


def _check_options(override: Override, options: Sequence[str]) -> None:
    for value in _values(override, options):
        if value is not None and str(value) not in options:
            key = override.key_or_group
            step = next_step(str(value), options, f"see chronorun train --help for {key}")
            raise UserError(
                f"command line: {key}={value}, expected one of {', '.join(options)}; {step}"
            )


def _values(override: Override, options: Sequence[str]) -> list[Any]:
    if override.is_sweep_override():
        return swept_values(override, options)
    value = override.value()
    return value if isinstance(value, list) else [value]


def swept_values(override: Override, options: Sequence[str] = ()) -> list[str]:
    """Return the values of a sweep as text; ``glob`` picks from ``options``.

    Raises UserError if there is none.
    """
    from hydra.core.override_parser.types import Glob

    pattern: Any = override.value()
    if isinstance(pattern, Glob):
        values = pattern.filter(list(options))
    elif override.is_discrete_sweep():
        values = list(override.sweep_string_iterator())
    else:
        # Optimising sweepers draw from an interval; its ends are checked instead.
        values = [str(pattern.start), str(pattern.end)]
    if not values:
        shown = f"{override.key_or_group}={override.get_value_string()}"
        raise UserError(f"command line: {shown}, expected at least one value; correct the sweep")
    return values


def jobs(overrides: Sequence[Override], groups: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield the overrides of each job to check: all jobs of a sweep, or the single run.

    A very large sweep yields each value once, with the first values of the other dimensions.
    """
    choices = [alternatives(override, groups) for override in overrides]
    if math.prod(map(len, choices)) <= LARGEST_PRODUCT:
        yield from (list(job) for job in itertools.product(*choices))
        return
    first = [options[0] for options in choices]
    yield first
    for place, options in enumerate(choices):
        for option in options[1:]:
            yield [*first[:place], option, *first[place + 1 :]]


def alternatives(override: Override, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return an override once for each of its values."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    values = swept_values(override, groups.get(override.key_or_group, ()))
    return [f"{key}={value}" for value in values]
