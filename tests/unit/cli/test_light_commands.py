"""What a person types often starts fast: no torch, no datasets, no W&B."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "{'torch', 'datasets', 'wandb', 'tokenizers', 'scipy', 'matplotlib'}"

DECISION = (
    '{"step":20,"run_id":"r","action":"SPAWN","layer_id":0,"expert_id":"L0_E8","parent_id":null,'
    '"reason":"sustained_starvation","metrics_at_decision":{},"config_snapshot":{}}\n'
)


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], f"{HEAVY} | {{'hydra', 'omegaconf', 'rich', 'numpy'}}"),
        (["--version"], f"{HEAVY} | {{'hydra', 'omegaconf', 'rich', 'numpy'}}"),
        (["_complete", "train", "model="], f"{HEAVY} | {{'hydra', 'omegaconf', 'rich', 'typer'}}"),
        (["_complete", "train", "optimizer.schedule="], f"{HEAVY} | {{'hydra', 'typer'}}"),
        (["completion", "bash"], f"{HEAVY} | {{'hydra', 'omegaconf'}}"),
        (["train", "--help"], HEAVY),
        (["train", "--cfg", "job"], HEAVY),
        (["train", "model=nan"], HEAVY),
        (["bench", "--help"], HEAVY),
        (["bench", "--cfg", "job"], HEAVY),
        (["inspect", "--help"], f"{HEAVY} | {{'hydra', 'omegaconf'}}"),
        (["inspect", "lifecycle_decisions.jsonl"], f"{HEAVY} | {{'hydra', 'omegaconf'}}"),
        (["replay", "--help"], HEAVY),
        (["sample", "--help"], HEAVY),
    ],
)
def test_a_light_command_imports_nothing_heavy(
    tmp_path: Path, arguments: list[str], unwanted: str
) -> None:
    (tmp_path / "lifecycle_decisions.jsonl").write_text(DECISION, encoding="utf-8")
    code = (
        "import sys; from chronorun.cli.main import run_command_line; "
        f"run_command_line({arguments!r}); "
        f"sys.exit(str(sorted(({unwanted}) & set(sys.modules)) or ''))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
    assert done.stderr.splitlines()[-1:] in ([], [""]) or "chronorun: error" in done.stderr
    assert "['" not in done.stderr
