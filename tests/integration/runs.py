"""Runs whose lifecycle acts by itself, each trained once for all tests that read it."""

from __future__ import annotations

from conftest import NANO

BASE = (*NANO, "training.batch_size=16")
QUICK = (*BASE, "lifecycle.lifecycle_warmup_steps=60")
OVER = ("experiment=overprovisioned", "lifecycle=aggressive", "governance.lens_warmup_steps=0")
RUNS = {
    "aggressive": (
        *QUICK, "lifecycle=aggressive", "training.max_steps=220",
        "training.checkpoint_interval=10", "training.keep_last=100",
    ),
    "over": (*QUICK, *OVER, "training.max_steps=200"),
    "dry": (*QUICK, "lifecycle=aggressive", "lifecycle.dry_run=true", "training.max_steps=120"),
    "off": (*QUICK, "lifecycle=off", "training.max_steps=120"),
    "undone": (
        *QUICK, *OVER, "lifecycle.harm_tolerance=0", "lifecycle.probation_checkpoints=2",
        "training.max_steps=200",
    ),
    "merged": (
        *BASE, "data=stdlib", "scenario=planted_redundancy", "lifecycle=aggressive",
        "training.eval_interval=20", "training.max_steps=300",
    ),
    "planted": (
        *QUICK, "lifecycle=aggressive", "scenario=planted_two_mode", "scenario.start_step=60",
        "training.max_steps=120",
    ),
    "at_once": (
        *BASE, "lifecycle=aggressive", "lifecycle.split_release=at_once",
        "scenario=planted_two_mode", "training.eval_interval=20", "training.max_steps=300",
    ),
    "ungoverned": (*QUICK, "lifecycle=aggressive", "governance=off", "training.max_steps=95"),
}  # fmt: skip
