"""Composing a run: what conf/ offers, and one line for every mistake."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from chronorun.config.compose import (
    ConfigFiles,
    compose_checked,
    compose_run,
    job_folder,
    new_run_id,
)
from chronorun.config.data import Source
from chronorun.config.model import GateChoice
from chronorun.config.overrides import parse_overrides
from chronorun.config.paths import conf_dir, group_options, groups
from chronorun.errors import UserError


def sweep(*overrides: str) -> None:
    compose_checked(overrides, ConfigFiles(conf_dir()), multirun=True)


def test_defaults_are_those_of_the_readme() -> None:
    config, composed = compose_run([])
    assert (config.data.source, config.model.n_layers, config.model.top_k) == (Source.stdlib, 4, 2)
    assert config.router.gate_order is GateChoice.auto
    assert not config.lifecycle.enabled
    assert composed.run_id == config.run_id != ""
    assert "hydra" not in composed


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in groups() for option in group_options(group)],
)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    needed = {"text": ["data.files=x.txt"], "hub": ["data.path=x"]}.get(option, [])
    compose_run([f"{group}={option}", *needed])


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("nano", (2, 64, 4, 64, 8, 2, 1)),
        ("tiny", (4, 128, 4, 128, 8, 2)),
        ("small", (4, 128, 4, 128, 8, 2, 1)),
        ("medium", (6, 384, 6, 256, 8, 2, 2)),
        ("large", (12, 768, 12, 1024, 32, 2, 2)),
    ],
)
def test_presets_have_their_sizes(preset: str, sizes: tuple[int, ...]) -> None:
    model = compose_run([f"model={preset}"])[0].model
    found = (model.n_layers, model.d_model, model.n_heads, model.context_length)
    assert (*found, model.num_experts, model.top_k, model.moe_stride)[: len(sizes)] == sizes


def test_an_experiment_overrides_several_groups_and_the_command_line_overrides_it() -> None:
    for override in ("experiment=overprovisioned", "+experiment=overprovisioned"):
        config, _ = compose_run([override, "model.top_k=4"])
        assert (config.model.num_experts, config.model.top_k) == (16, 4)
        assert config.router.load_balancing_coef == 0.0


def test_loss_free_balancing_has_no_balancing_loss() -> None:
    router = compose_run(["router=loss_free"])[0].router
    assert (router.loss_free, router.load_balancing_coef) == (True, 0.0)


def test_secrets_are_not_resolved_into_the_composed_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROJECT", "hush")
    config, composed = compose_run(["tracking.wandb.project=${oc.env:PROJECT}"])
    assert config.tracking.wandb.project == "hush"
    assert "hush" not in OmegaConf.to_yaml(composed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.topk=1",
            "command line: model.topk=1, expected a known key or group; did you mean model.top_k?",
        ),
        (
            "top_k=1",
            "command line: top_k=1, expected a known key or group; did you mean model.top_k?",
        ),
        (
            "modl=nano",
            "command line: modl=nano, expected a known key or group; did you mean model?",
        ),
        (
            "+typo=1",
            "command line: typo=1, expected a known key or group; see chronorun train --help",
        ),
        (
            "++model.topk=1",
            "command line: model.topk=1, expected a known key or group; did you mean model.top_k?",
        ),
        (
            "model.top_k.x=1",
            "command line: model.top_k.x=1, expected a known key or group; "
            "did you mean model.top_k?",
        ),
        (
            "model=nan",
            "command line: model=nan, expected one of large, medium, nano, small, tiny; "
            "did you mean nano?",
        ),
        (
            "tokenizer=words",
            "command line: tokenizer=words, expected one of bpe, byte; "
            "see chronorun train --help for tokenizer",
        ),
        (
            "~model",
            "command line: ~model deletes what a run needs, expected key=value; "
            "choose another value or option",
        ),
        (
            "nano",
            "command line: 'nano' is not understood, expected key=value or group=option; "
            "quote a value with special characters: \"key='a=b, c'\"",
        ),
        (
            "model.top_k=1,2",
            "command line: model.top_k=1,2, expected one value; add --multirun to run one job per "
            "value, or write model.top_k=[...] for a list",
        ),
        (
            "optimizer.schedule=cosin",
            "configuration: optimizer.schedule=cosin, expected one of cosine, wsd, constant; "
            "did you mean cosine?",
        ),
        (
            "tracking.wandb.mode=ofline",
            "configuration: tracking.wandb.mode=ofline, expected one of auto, offline, online, "
            "disabled; did you mean offline?",
        ),
        (
            "model.top_k=two",
            "configuration: model.top_k=two, expected an integer >= 1; correct the value",
        ),
        (
            "training.keep_best=maybe",
            "configuration: training.keep_best=maybe, expected one of true, false; "
            "correct the value",
        ),
        (
            "training.threads=many",
            "configuration: training.threads=many, expected an integer >= 1 or null; "
            "correct the value",
        ),
        (
            "model.top_k=9",
            "configuration: model.top_k=9, expected <= model.num_experts=8; "
            "lower top_k or add experts",
        ),
        (
            "model.dropout=1.5",
            "configuration: model.dropout=1.5, expected >= 0 and < 1; "
            "correct the override or the config file",
        ),
        (
            "model.d_model=${modle.n_heads}",
            "configuration: model.d_model: Interpolation key 'modle.n_heads' not found; "
            "correct the reference",
        ),
        (
            "data=text",
            "configuration: data.files is empty, expected one or more files for data=text; "
            "add data.files=book.txt",
        ),
        (
            "hydra.rnu.dir=x",
            "configuration: hydra.rnu does not fit, expected one of Hydra's keys with a value it "
            "takes; did you mean hydra.run.dir?",
        ),
        (
            "output_dir=",
            "configuration: output_dir is empty, expected a folder; name one, such as outputs",
        ),
    ],
)
def test_a_mistake_gets_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_run([override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "router=topk,los_free",
            "command line: router=los_free, expected one of loss_free, noisy, softmax_all, topk, "
            "unbalanced; did you mean loss_free?",
        ),
        (
            "model=choice(nano,tinny)",
            "command line: model=tinny, expected one of large, medium, nano, small, tiny; "
            "did you mean tiny?",
        ),
        (
            "model=glob(x*)",
            "command line: model=glob(x*), expected at least one value; correct the sweep",
        ),
        (
            "optimizer.schedule=wsd,cosin",
            "configuration: optimizer.schedule=cosin, expected one of cosine, wsd, constant; "
            "did you mean cosine?",
        ),
        (
            "model.top_k=range(1,10)",
            "configuration: model.top_k=9, expected <= model.num_experts=8; "
            "lower top_k or add experts",
        ),
        (
            "run_id=a,b",
            "command line: run_id=a,b, expected one value for the whole sweep; "
            "each job has its own folder below it",
        ),
    ],
)
def test_a_mistake_inside_a_sweep_gets_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep("training.max_steps=1", override)
    assert str(caught.value) == message


def test_the_last_value_of_a_large_sweep_is_checked_too() -> None:
    values = ",".join(["1"] * 200)
    with pytest.raises(UserError, match=r"^configuration: model\.top_k=99, expected <= model\."):
        sweep(f"model.top_k={values},99")
    with pytest.raises(UserError, match=r"^configuration: model\.top_k=x, expected an integer"):
        sweep(f"model.top_k={values},x")


def test_globs_and_intervals_are_sweeps() -> None:
    sweep("router=glob(*)", "optimizer.lr=interval(1e-3,1e-2)")


def test_composing_leaves_a_surrounding_hydra_alone() -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose_run([])
        assert GlobalHydra.instance().hydra is outer
    assert not GlobalHydra.instance().is_initialized()


def test_fresh_run_ids_differ() -> None:
    assert len({new_run_id() for _ in range(200)}) == 200


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("", "0"),
        ("seed=1,model.top_k=2", "0-seed-1_model.top_k-2"),
        ("data.files=['a b/c.txt']", "0-data.files-_a_b_c.txt"),
    ],
)
def test_a_job_folder_has_no_character_that_a_shell_or_hydra_minds(
    overrides: str, name: str
) -> None:
    assert job_folder(0, overrides) == name


def test_a_job_folder_keeps_within_what_file_systems_take() -> None:
    assert len(job_folder(12345, "x" * 1000)) < 150


@pytest.mark.parametrize(
    ("swept", "lists"),
    [
        ("a.txt,b.txt", "['a.txt'],['b.txt']"),
        ("'a b.txt','c,d.txt'", "['a b.txt'],['c,d.txt']"),
        ("[a.txt],[b.txt,c.txt]", "[a.txt],[b.txt,c.txt]"),
    ],
)
def test_each_job_of_a_sweep_over_files_gets_a_list(swept: str, lists: str) -> None:
    (override,) = parse_overrides([f"data.files={swept}"])
    assert override.input_line == f"data.files={lists}"
