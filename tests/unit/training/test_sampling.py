"""Text from a run: the same twice, from the checkpoint asked for, and clear when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.run import RunConfig
from chronorun.data.tokenizer import ByteTokenizer
from chronorun.errors import StorageError, UserError
from chronorun.model import GPT
from chronorun.training.checkpoints.folder import save_checkpoint
from chronorun.training.sampling import load_run_model, sample_text

MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, num_experts=4)


def save(run: Path, step: int, best_step: int = 10) -> None:
    # Another seed a step, and layers that have gained and lost experts.
    generator = torch.Generator().manual_seed(step)
    population = [3, 6]
    gpt = GPT(MODEL, RouterConfig(), 256, experts_per_layer=population, generator=generator)
    save_checkpoint(
        run,
        step,
        {"model": dict(gpt.state_dict())},
        {
            "step": step,
            "population": {str(i): n for i, n in enumerate(population)},
            "best": {"step": best_step, "val_loss": 1.0},
            **{key: {} for key in ("last", "rng", "heartbeat", "scenario", "logs")},
            **dict.fromkeys(("train_seconds", "wall_seconds"), 0.0),
            "alerts_total": 0,
            "alerting": [],
            "threads": 1,
        },
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "voice"
    (folder / "tokenizer").mkdir(parents=True)
    ByteTokenizer().save(folder / "tokenizer")
    config = RunConfig(run_id="voice", model=MODEL)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    save(folder, 10)
    save(folder, 20)
    return folder


def test_the_population_of_the_checkpoint_is_built(run: Path) -> None:
    model, _, config = load_run_model(run)
    assert [layer.num_experts for layer in model.moe_layers()] == [3, 6]
    assert not model.training
    assert config.model == MODEL


def test_the_same_seed_gives_the_same_text_and_another_seed_another(run: Path) -> None:
    torch.manual_seed(1)
    one = sample_text(run, "def ", 30, seed=5)
    torch.manual_seed(2)
    assert sample_text(run, "def ", 30, seed=5) == one
    assert sample_text(run, "def ", 30, seed=6) != one


def test_the_global_generator_is_left_alone(run: Path) -> None:
    before = torch.get_rng_state()
    sample_text(run, "a", 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prompt", ["", "longer than the context of eight", "é", "\udcff"])
def test_any_prompt_is_continued_beyond_the_context(run: Path, prompt: str) -> None:
    assert sample_text(run, prompt, 20)


def test_temperature_zero_takes_the_likeliest_and_low_ones_do_the_same(run: Path) -> None:
    greedy = sample_text(run, "x", 12, temperature=0)
    assert sample_text(run, "x", 12, temperature=1e-30, seed=3) == greedy
    assert sample_text(run, "x", 12, temperature=2.0, top_k=1, seed=4) == greedy


def test_more_choices_than_tokens_are_all_of_them(run: Path) -> None:
    assert sample_text(run, "x", 5, top_k=10_000)


def test_last_best_and_a_path_choose_the_checkpoint(run: Path) -> None:
    def first_weight(checkpoint: str) -> float:
        return float(load_run_model(run, checkpoint)[0].embedding.weight.detach()[0, 0])

    ten = first_weight(str(run / "checkpoints" / "step_00000010"))
    twenty = first_weight(str(run / "checkpoints" / "step_00000020"))
    assert ten != twenty
    assert first_weight("last") == twenty
    assert first_weight("best") == ten


def test_a_best_step_between_checkpoints_means_the_one_before(run: Path) -> None:
    save(run, 30, best_step=25)
    best = load_run_model(run, "best")[0].embedding.weight
    path = str(run / "checkpoints" / "step_00000020")
    assert torch.equal(best, load_run_model(run, path)[0].embedding.weight)


def test_what_is_not_a_run_folder_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sample_text(tmp_path / "nothing", "x")
    assert str(caught.value) == (
        f"run: {tmp_path}/nothing is not a run folder (no config.yaml); "
        f"name one, such as outputs/run"
    )


def test_a_run_without_checkpoint_says_how_to_get_one(run: Path) -> None:
    (run / "checkpoints").rename(run / "away")
    with pytest.raises(StorageError) as caught:
        sample_text(run, "x")
    assert str(caught.value) == (
        f"run: {run} holds no usable checkpoint, expected checkpoints/step_*; "
        f"train it further with chronorun train resume={run}"
    )


def test_a_checkpoint_of_another_model_is_refused_in_one_line(run: Path) -> None:
    other = RunConfig(model=ModelConfig(n_layers=2, d_model=32, n_heads=2, context_length=8))
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(other)))
    with pytest.raises(
        StorageError, match=r"^checkpoint: .* does not fit .*; name a checkpoint"
    ) as e:
        sample_text(run, "x")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content", [b"", b"- a list", b"model: {d_model: [", b"\xff\xfe\x00", b"seed: x", b"nothing: 1"]
)
def test_a_damaged_configuration_is_named(run: Path, content: bytes) -> None:
    (run / "config.yaml").write_bytes(content)
    if not content:  # an empty file is the defaults, which these tensors do not fit
        with pytest.raises(StorageError, match="does not fit"):
            sample_text(run, "x")
        return
    with pytest.raises(StorageError) as caught:
        sample_text(run, "x")
    assert str(caught.value).startswith(f"run: {run}/config.yaml is not a run's configuration (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"max_tokens": 0}, "sample: tokens=0, expected >= 1; choose another value"),
        ({"top_k": 0}, "sample: top_k=0, expected >= 1; choose another value"),
        ({"seed": -1}, "sample: seed=-1, expected >= 0; choose another value"),
        (
            {"temperature": float("nan")},
            "sample: temperature=nan, expected >= 0; use 0 for the likeliest token",
        ),
    ],
)
def test_numbers_out_of_range_are_a_users_mistake(
    run: Path, numbers: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        sample_text(run, "x", **numbers)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 2**64}, f"sample: seed={2**64}, expected >= 0 and <= {2**64 - 1}; choose"),
        ({"temperature": 1e-300}, "sample: temperature=1e-300, expected 0 or >= 1e-30; use 0"),
    ],
)
def test_numbers_that_torch_cannot_hold_are_a_users_mistake(
    run: Path, options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        sample_text(run, "x", **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
