"""The jobs of a bench, and the folder that they belong to."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from chronorun import __version__
from chronorun.bench.evidence.comparisons import LIFECYCLE
from chronorun.config.bench import FOLLOWERS, BenchConfig
from chronorun.config.compose import compose_checked
from chronorun.config.overrides import swept_values
from chronorun.core.files import write_atomically
from chronorun.core.jsonl import encode_json
from chronorun.errors import StorageError, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from chronorun.config.roots import ConfigFiles

FILE = "sweep.json"
DIMENSIONS = ("scenario", "seed", "arm")
HANDLING = ("bench", "tracking", "output_dir", "run_id", "resume")
"""Parts of the configuration that leave a job's results as they are."""

JobKey = tuple[str, str, str, str]
"""scenario, variant, seed, arm"""


@dataclass(frozen=True)
class Sweep:
    """The jobs of one bench: what all share, and the values of each dimension.

    ``varied`` are further dimensions that the user sweeps, by override key. ``is_drawn`` says that
    one of them is an interval: an optimising sweeper draws from it, and which jobs there will be
    is not known beforehand.
    """

    shared: list[str]
    scenarios: list[str]
    varied: dict[str, list[str]]
    seeds: list[str]
    arms: list[str]
    is_drawn: bool = False

    @property
    def waves(self) -> list[list[str]]:
        """Return the arms that run at once: those that follow another's edits come second."""
        first = [arm for arm in self.arms if arm not in FOLLOWERS]
        second = [arm for arm in self.arms if arm in FOLLOWERS]
        return [wave for wave in (first, second) if wave]

    def keys(self) -> list[JobKey]:
        """Return every job, in the order of their numbers: wave by wave, the arm fastest."""
        varied = [[f"{key}={value}" for value in values] for key, values in self.varied.items()]
        variants = [",".join(values) for values in itertools.product(*varied)]
        return [
            key
            for arms in self.waves
            for key in itertools.product(self.scenarios, variants, self.seeds, arms)
        ]

    def overrides(self, arms: Sequence[str]) -> list[str]:
        """Return the sweep's overrides for some arms; the last dimension varies fastest."""
        dimensions = {
            "scenario": self.scenarios,
            **self.varied,
            "seed": self.seeds,
            "arm": list(arms),
        }
        return [*self.shared, *(f"{key}={','.join(v)}" for key, v in dimensions.items())]

    def mathematics(self) -> list[str]:
        """Return the shared overrides that results depend on, and the keys that vary."""
        parts = tuple(f"{part}{end}" for part in (*HANDLING, "hydra") for end in (".", "=", "/"))
        shared = [text for text in self.shared if not text.lstrip("+~").startswith(parts)]
        return sorted([*shared, *(f"{key}=..." for key in self.varied)])


def plan(given: Sequence[Override], files: ConfigFiles, bench: BenchConfig) -> Sweep:
    """Return the jobs that a command line asks for.

    Raises UserError for ``resume``, an empty dimension, and a follower without the arm it follows.
    """
    groups = files.groups()
    seeds = range(bench.first_seed, bench.first_seed + bench.seeds)
    found = {
        "scenario": list(bench.scenarios),
        "seed": [str(seed) for seed in seeds],
        "arm": list(bench.arms),
    }
    shared, varied, is_drawn = [], {}, False
    for override in given:
        key = override.key_or_group
        if key == "resume":
            raise UserError(
                "command line: resume given, expected none; the same command goes on where the "
                "sweep stopped"
            )
        if override.is_sweep_override():
            values = list(dict.fromkeys(swept_values(override, groups.get(key, ()))))
            if key in DIMENSIONS:
                found[key] = values
            else:
                varied[override.get_key_element()] = values
                is_drawn |= override.is_interval_sweep()
        elif key in DIMENSIONS:
            found[key] = [str(override.value())]
        else:
            shared.append(str(override.input_line))
    for key in ("scenario", "arm"):
        if not found[key]:
            raise UserError(f"bench: bench.{key}s=[], expected at least one; name some")
    unique = {key: list(dict.fromkeys(values)) for key, values in found.items()}
    sweep = Sweep(shared, unique["scenario"], varied, unique["seed"], unique["arm"], is_drawn)
    _check_leader(sweep)
    return sweep


def _check_leader(sweep: Sweep) -> None:
    followers = [arm for arm in sweep.arms if arm in FOLLOWERS]
    if followers and LIFECYCLE not in sweep.arms:
        raise UserError(
            f"command line: arm={','.join(sweep.arms)}, expected {LIFECYCLE} among them: "
            f"{', '.join(followers)} follow its edits; add {LIFECYCLE}"
        )


def fingerprint(sweep: Sweep, files: ConfigFiles) -> str:
    """Return a hash of what the jobs' results depend on, but for which jobs there are.

    It covers what all jobs share as it is composed, the options that dimensions choose from, and
    the version. More seeds, arms or scenarios leave it as it is, and so do launchers and trackers.
    """
    from omegaconf import OmegaConf

    base = OmegaConf.to_container(compose_checked(sweep.shared, files).composed, resolve=False)
    assert isinstance(base, dict)
    for key in HANDLING:
        base.pop(key, None)
    digest = hashlib.sha256(f"{__version__} {sorted(sweep.varied)}".encode())
    digest.update(encode_json(base, enc_hook=str, order="deterministic"))
    groups = files.groups()
    for group in sorted({"arm", "scenario", *(key for key in sweep.varied if key in groups)}):
        for place in files.places():
            for path in sorted((place / group).glob("*.yaml")):
                digest.update(f"{group}/{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


class _Claim(msgspec.Struct):
    """What ``sweep.json`` holds."""

    chronorun: str
    fingerprint: str
    overrides: list[str]


def claim(folder: Path, sweep: Sweep, mark: str) -> None:
    """Say in the folder what its jobs are; refuse one whose jobs are of another kind.

    Raises UserError for that, StorageError for a file that cannot be read.
    """
    path = folder / FILE
    if path.is_file():
        found = _read_claim(path)
        if found.fingerprint != mark:
            differ = sorted(set(found.overrides) ^ set(sweep.mathematics()))
            what = ", ".join(differ) or "config files or the version of chronorun"
            raise UserError(
                f"bench: {folder} holds another comparison ({what} differ), expected the same "
                f"configuration; choose another run_id"
            )
        return
    record = _Claim(__version__, mark, sweep.mathematics())
    write_atomically(path, msgspec.json.format(encode_json(record), indent=2) + b"\n")


def _read_claim(path: Path) -> _Claim:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Claim)
    except msgspec.DecodeError as error:
        raise StorageError(
            f"bench: {path} does not say what its folder holds ({error}); choose another run_id"
        ) from error
