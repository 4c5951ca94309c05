"""The benchmark's contenders are what they claim to be, and its command runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from unit.model.moe_reference import make_layer, tokens

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def one_hot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onehot", BENCHMARKS / "reference_onehot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("step", BENCHMARKS / "step.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "step", module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("reference_onehot", None)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_one_hot_layer_equals_ours_where_nothing_is_dropped(
    one_hot: ModuleType, top_k: int
) -> None:
    layer = make_layer(top_k=top_k)
    reference = one_hot.OneHotMoE(layer, capacity_factor=100.0)
    x = tokens(24)
    wanted = [x, layer.router.weight, layer.experts.w1, layer.experts.w2]
    one, other = layer(x), reference(x)
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(one[1].load_balancing_loss, other[1].load_balancing_loss)
    gradients = [torch.autograd.grad(y[0].square().sum(), wanted) for y in (one, other)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_hot_layer_drops_what_is_beyond_its_capacity(one_hot: ModuleType) -> None:
    layer = make_layer(top_k=1)
    layer.router.logit_offset[2] = 50.0
    out = one_hot.OneHotMoE(layer, capacity_factor=1.25)(tokens(20))[0]
    # 1.25 * 20 / 5 = 5 tokens of expert 2; all others are dropped.
    assert out[0].abs().sum(-1).count_nonzero() == 5


@pytest.mark.parametrize("preset", ["nano", "small", "medium"])
def test_dense_contender_counts_equal_active_flops(step: ModuleType, preset: str) -> None:
    assert step.check_equal_flops(step.preset_config(preset)) > 0


def test_command_prints_and_writes_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--preset", "nano", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text(encoding="utf-8"))
    assert set(record) == {"machine", "rounds", "nano"}
    names = [figure["name"] for figure in record["nano"]["figures"]]
    assert names == [
        "step / one-hot",
        "step / dense",
        "layer of 64 experts / dense",
        "memory / one-hot",
    ]
    assert all(name in done.stdout for name in names)
