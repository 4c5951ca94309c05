"""``chronorun train --help``: groups with their options, fields with their meaning."""

from __future__ import annotations

import textwrap
from itertools import groupby

import typer

from chronorun.config.describe import FieldInfo, all_fields
from chronorun.config.paths import group_options, groups

WIDTH = 80

INTRODUCTION = """\
Usage: chronorun train [key=value] [group=option] [Hydra flags]

Train one Mixture-of-Experts language model, or several with --multirun.

  chronorun train
  chronorun train model=nano training.max_steps=300 run_id=first
  chronorun train data=text data.files=book.txt tokenizer=bpe
  chronorun train -m seed=0,1,2 router=topk,loss_free
  chronorun train run_id=first resume=auto

Flags (in any position):
  --multirun, -m        run a sweep over the comma-separated values
  --cfg job|hydra|all   show the configuration and stop  (--resolve, --package)
  --info [what]         show how the configuration is composed
  --config-dir, -cd DIR add a folder of config groups of your own
  --hydra-help          Hydra's own help
  --debug               show a traceback when something fails
"""


def print_train_help() -> None:
    """Print the whole page."""
    typer.echo(train_help())


def train_help() -> str:
    """Return the page, at most 80 columns wide."""
    parts = [INTRODUCTION, "Groups and their options:"]
    for group in groups():
        parts.append(_hang(f"  {group:<16}", ", ".join(group_options(group)), 18))
    parts.append("\nFields (key, default; meaning, unit, range):")
    for group, infos in groupby(all_fields(), key=lambda info: info.group):
        parts.append(f"\n  {group or 'run'}")
        parts.extend(_field(info) for info in infos)
    return "\n".join(parts)


def _hang(head: str, text: str, indent: int) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _field(info: FieldInfo) -> str:
    notes = [info.help]
    if info.unit and info.unit not in info.help:
        notes.append(f"in {info.unit}")
    if info.range:
        notes.append(info.range)
    elif info.choices:
        notes.append(" | ".join(info.choices))
    text = "; ".join(note for note in notes if note)
    return f"    {info.key}={info.default}\n" + textwrap.fill(
        text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8
    )
