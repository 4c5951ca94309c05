"""The pages of ``chronorun train --help`` and ``chronorun bench --help``."""

from __future__ import annotations

import textwrap
from itertools import groupby

from chronorun.config.bench import BenchRunConfig
from chronorun.config.describe import FieldInfo, all_fields
from chronorun.config.paths import BENCH_GROUPS, group_options, groups, option_summary

WIDTH = 80

INTRODUCTION = """\
Usage: chronorun train [group=option] [key=value] [flags]

Train one Mixture-of-Experts language model, or several with --multirun.

  chronorun train
  chronorun train model=nano training.max_steps=300 run_id=first
  chronorun train run_id=first resume=auto
  chronorun train data=text data.files=book.txt tokenizer=bpe
  chronorun train -m seed=0,1,2 router=topk,loss_free

Flags (before, between or after the overrides):
  --multirun, -m           run one job per combination of values: seed=0,1,2
  --cfg job|hydra|all, -c  show the configuration (--resolve, --package KEY)
  --info [PAGE], -i        show how the configuration is put together
  --config-dir DIR, -cd    add a folder with groups and options of your own
  --config-name NAME, -cn  start from another root file than train
  --experimental-rerun F   run again with a configuration pickled by Hydra
  --hydra-help             show Hydra's own groups: hydra/launcher=joblib, ...
  --debug                  show a traceback when something fails
  --help, -h               show this page
"""


BENCH_INTRODUCTION = """\
Usage: chronorun bench [bench=preset] [group=option] [key=value] [flags]

Compare training with and without the lifecycle: one sweep of arms x scenarios x
seeds, then paired differences, tests, verdicts and a report with charts. The
same command continues a sweep that stopped, and shows one that is finished.

  chronorun bench --multirun bench=quick
  chronorun bench --multirun scenario=collapse seed=range(0,6)
  chronorun bench --multirun bench=full hydra/launcher=joblib hydra.launcher.n_jobs=2
  chronorun bench --multirun arm=static,lifecycle lifecycle=default,aggressive

scenario=, seed= and arm= take one or more values; anything else with several
values (lifecycle= above) gets one row of results per value. --multirun may be
left out. Arms that use the lifecycle's edits run last.

Flags (before, between or after the overrides):
  --multirun, -m           accepted; a bench is always a sweep
  --cfg job|hydra|all, -c  show the configuration (--resolve, --package KEY)
  --info [PAGE], -i        show how the configuration is put together
  --config-dir DIR, -cd    add a folder with groups and options of your own
  --config-name NAME, -cn  start from another root file than bench
  --hydra-help             show Hydra's own groups: hydra/launcher=joblib, ...
  --debug                  show a traceback when something fails
  --help, -h               show this page
"""


def bench_help() -> str:
    """Return the page of ``chronorun bench``, at most 80 columns wide."""
    parts = [BENCH_INTRODUCTION, "Groups of a bench (* marks the default):"]
    defaults = _default_options(bench=True)
    for group in (*BENCH_GROUPS, "scenario"):
        parts.append(f"\n  {group}=")
        parts.extend(_option(group, name, defaults) for name in group_options(group))
    others = ", ".join(name for name in groups() if name != "scenario")
    parts.append("\n" + _hang("  As in chronorun train --help", others, 4, ": "))
    parts.append("\nFields (key=default; meaning, unit, range):\n")
    infos = all_fields(BenchRunConfig)
    parts.extend(_field(info) for info in infos if info.group == "bench")
    return "\n".join(parts)


def train_help() -> str:
    """Return the page of ``chronorun train``, at most 80 columns wide."""
    from chronorun.config.reference import default_run_fields, group_meaning

    parts = [INTRODUCTION, "Groups and their options (* marks the default):"]
    defaults = _default_options()
    for group in groups():
        parts.append(f"\n  {group}=")
        parts.extend(_option(group, name, defaults) for name in group_options(group))
    parts.append("\nFields (key=default; meaning, unit, range):")
    for group, infos in groupby(default_run_fields(), key=lambda info: info.group):
        parts.append("\n" + _hang(f"  {group or 'run'}", group_meaning(group), 4, ": "))
        parts.extend(_field(info) for info in infos)
    return "\n".join(parts)


def _default_options(*, bench: bool = False) -> dict[str, str]:
    """Return the default option of each group."""
    from omegaconf import DictConfig

    from chronorun.config.compose import compose_checked
    from chronorun.config.paths import conf_dir
    from chronorun.config.roots import ConfigFiles

    root = ConfigFiles(conf_dir(), None, "bench", BenchRunConfig)
    files = root if bench else ConfigFiles(conf_dir())
    node = compose_checked([], files).hydra.hydra.runtime.choices
    assert isinstance(node, DictConfig)
    return {str(group): str(option) for group, option in node.items()}


def _option(group: str, name: str, defaults: dict[str, str]) -> str:
    mark = "*" if defaults.get(group) == name else " "
    head = f"    {mark} {name:<16} "
    return _hang(head, option_summary(group, name), len(head), "")


def _hang(head: str, text: str, indent: int, joint: str) -> str:
    whole = f"{head}{joint}{text}".rstrip() if text else head.rstrip()
    return textwrap.fill(
        whole,
        WIDTH,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        drop_whitespace=True,
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
        text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False
    )
