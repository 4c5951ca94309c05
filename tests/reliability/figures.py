"""How many times something was tried, and how many times it held."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "chronorun"
COMMAND = "pytest tests/reliability --exhaustive --figures benchmarks/results/reliability.md"

Counts = dict[str, tuple[int, int]]


class Figures:
    """Counts of one test or of many, by what was tried."""

    def __init__(self, counts: Counts | None = None) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.add_all(counts or {})

    def add_all(self, counts: Counts) -> None:
        for what, (tried, held) in counts.items():
            self.tried[what] += tried
            self.held[what] += held

    def __call__(self, what: str, held: bool, times: int = 1) -> bool:
        """Count one try, and say whether it held."""
        self.tried[what] += times
        self.held[what] += times * held
        return held

    def counts(self) -> Counts:
        return {what: (tried, self.held[what]) for what, tried in self.tried.items()}

    def table(self) -> str:
        """Return the counts as a table in Markdown."""
        rows = [f"| {what} | {n} | {self.held[what]} |" for what, n in sorted(self.tried.items())]
        return "\n".join(["| what | tried | held |", "|---|---:|---:|", *rows])


def code_hash() -> str:
    """Return a short hash of the package: figures of other code are not kept."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def report(figures: Figures) -> str:
    """Return the page that is committed beside other results."""
    from importlib.metadata import version

    names = ("torch", "safetensors", "msgspec", "hydra-core", "wandb")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        "# Reliability\n\n"
        "What was broken on purpose, how often, and how often the run came through or said what\n"
        f"was wrong as documented. `{COMMAND}` writes this page; a run cut short goes on where it\n"
        "stopped, and random choices are drawn from fixed seeds.\n\n"
        f"Python {platform.python_version()}, {versions}; {platform.system()} "
        f"{platform.machine()}, CPU, one thread a run; code {code_hash()}.\n\n"
        f"{figures.table()}\n"
    )
