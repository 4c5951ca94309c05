"""What is completed: commands, flags, groups, options, keys and values, after ``=`` too."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chronorun.cli.completion import FLAG_VALUES, complete
from chronorun.cli.completion_scripts import script
from chronorun.config.hydra_bridge import parse
from chronorun.config.paths import group_options
from chronorun.errors import UserError

RELEASE = ("=", "_limit=", "_shock=")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tr", ["train"]),
        ("--ver", ["--version"]),
        ("--debug sa", ["sample"]),
        ("train mod", ["model.", "model="]),
        ("train model=n", ["model=nano"]),
        ("train seed=1 lifecycle=of", ["lifecycle=off"]),
        ("train lifecycle=d", ["lifecycle=default", "lifecycle=dry_run"]),
        ("train lifecycle/s", ["lifecycle/spawn=", "lifecycle/split="]),
        (
            "train lifecycle=aggressive lifecycle/spawn=",
            [f"lifecycle/spawn={name}" for name in ("default", "eager", "off", "patient")],
        ),
        ("train lifecycle.split_rel", [f"lifecycle.split_release{rest}" for rest in RELEASE]),
        ("train lifecycle.split_release=s", ["lifecycle.split_release=shock"]),
        ("train router=", [f"router={name}" for name in group_options("router")]),
        ("train router=topk,un", ["router=topk,unbalanced"]),
        ("train +experiment=o", ["+experiment=overprovisioned"]),
        ("train optimizer.sch", ["optimizer.schedule="]),
        ("train optimizer.schedule=w", ["optimizer.schedule=wsd"]),
        ("train training.keep_best=", ["training.keep_best=false", "training.keep_best=true"]),
        ("train model.top_k=", []),
        ("train --mult", ["--multirun"]),
        ("train model=nano --cfg ", ["all", "hydra", "job"]),
        ("train --info defaults-", ["defaults-tree"]),
        ("train --info mode", ["model.", "model="]),
        ("train resume=a", ["resume=auto"]),
        ("sample --pr", ["--prompt"]),
        ("replay -", ["--debug", "--help", "--json"]),
        ("sample outputs/a --checkpoint b", ["best"]),
        ("completion z", ["zsh"]),
        ("nonsense x", []),
    ],
)
def test_the_last_word_is_completed(line: str, found: list[str]) -> None:
    assert complete(line.split(" ")) == sorted(found)


def test_nothing_typed_yet_offers_the_commands() -> None:
    commands = {"train", "bench", "sample", "inspect", "replay", "completion"}
    assert set(complete([""])) == commands | {"--help", "--version", "--debug"}


def test_paths_are_completed_where_one_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/first").mkdir(parents=True)
    (tmp_path / "book.txt").touch()
    (tmp_path / ".hidden").touch()
    assert complete(["sample", "outputs/f"]) == ["outputs/first/"]
    assert complete(["train", "data.files=b"]) == ["data.files=book.txt"]
    assert complete(["train", "data.files=[book.txt,o"]) == ["data.files=[book.txt,outputs/"]
    assert complete(["train", "resume=outputs/"]) == ["resume=outputs/first/"]
    assert complete(["train", "-cd", ""]) == ["outputs/"]


def test_the_flags_of_train_are_hydras_and_ours() -> None:
    known = {flag for flag in parse([]).parser._option_string_actions if flag.startswith("--")}
    for command in ("train", "bench"):
        found = set(complete([command, "--"]))
        assert found - {"--debug"} <= known
        assert {"--debug", "--help", "--multirun", "--cfg"} <= found


def test_the_shell_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert script(None) == script("zsh")
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(UserError) as caught:
        script(None)
    assert str(caught.value) == (
        "completion: shell=tcsh, expected one of bash, fish, zsh; name your shell"
    )


QUOTED = [
    ("chronorun inspect my", "my\\ run/"),
    ("chronorun inspect 'my", "my run/"),
    ('chronorun inspect "my', "my run/"),
    ("chronorun inspect my\\ r", "my\\ run/"),
    ("chronorun inspect my\\ run/", "my\\ run/metrics.jsonl"),
    ("chronorun inspect 'my run'/m", "/metrics.jsonl"),
    ("chronorun inspect it", "it\\'s/"),
    ('chronorun inspect "a', "a\\$b/"),
    ("chronorun inspect [o", "\\[old\\]/"),
    ("chronorun inspect back", "back\\\\slash/"),
    ("chronorun train router=topk,un", "topk,unbalanced"),
    ("chronorun train data.files=[my", "[my\\ run/"),
    ("chronorun train resume='my", "my run/"),
    ("chronorun inspect x --action SP", "SPAWN SPLIT"),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_gets_words_that_are_quoted_as_the_line_is(tmp_path: Path) -> None:
    for name in ("my run", "it's", "a$b", "[old]", "back\\slash"):
        (tmp_path / name).mkdir()
    (tmp_path / "my run" / "metrics.jsonl").touch()
    (tmp_path / "chronorun").write_text(f'exec {sys.executable} -m chronorun "$@"\n')
    (tmp_path / "chronorun").chmod(0o755)
    asked = "\n".join(
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}; _chronorun_complete; "
        f'echo "${{COMPREPLY[*]}}"'
        for line, _ in QUOTED
    )
    breaks = "COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'"
    done = subprocess.run(
        ["bash", "-c", f'PATH="$PWD:$PATH"\n{script("bash")}\n{breaks}\n{asked}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [found for _, found in QUOTED]


def test_the_actions_of_inspect_are_those_of_the_lifecycle() -> None:
    from chronorun.lifecycle import Action

    assert set(FLAG_VALUES["--action"]) == {action.value for action in Action}
