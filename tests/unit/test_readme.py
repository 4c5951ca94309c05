"""The READMEs say what is true: their commands, their Python, their links, groups and fields."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chronorun.analysis.reading import records
from chronorun.config.compose import compose_checked
from chronorun.config.paths import conf_dir, group_options, groups
from chronorun.config.roots import ConfigFiles
from chronorun.lifecycle.experts.states import TRANSITIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", ".github/*.md", "chronorun/*/*.md", "conf/*.md", "tests/*.md")
    for path in sorted(ROOT.glob(pattern))
}
OWN_MODEL = ROOT / "scripts/own_model.py"
QUOTED = "# from scripts/own_model.py\n"


def code_blocks(language: str) -> Iterator[tuple[str, str]]:
    for page, text in PAGES.items():
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL):
            yield page, block


def train_commands() -> Iterator[str]:
    for _, block in code_blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip()
            if found := re.search(r"\bchronorun train\b(?! --help)(.*)$", command):
                yield found[1].strip()


def test_the_first_screen_holds_both_commands() -> None:
    first_screen = README.splitlines()[:24]
    assert "pip install -c constraints.txt -e . && chronorun train" in first_screen
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in first_screen


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize(
    "code", [code for _, code in code_blocks("python") if not code.startswith(QUOTED)]
)
def test_their_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_script_that_governs_a_model_of_ones_own_runs_and_is_quoted_as_it_is(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, OWN_MODEL], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " SPLIT L0_E" in done.stdout
    quotes = [code.removeprefix(QUOTED) for _, code in code_blocks("python") if QUOTED in code]
    assert quotes
    script = OWN_MODEL.read_text(encoding="utf-8")
    assert all(textwrap.indent(quote, "    ") in script for quote in quotes)


@pytest.mark.parametrize("command", sorted(set(train_commands())))
def test_their_training_commands_compose(command: str) -> None:
    words = shlex.split(command)
    # Launchers of sweeps are Hydra's; a run to go on from is not there.
    overrides = [one for one in words if not one.startswith(("-m", "hydra", "resume="))]
    assert compose_checked(overrides, ConfigFiles(conf_dir()), multirun="-m" in words)


def test_every_option_it_names_for_a_group_exists() -> None:
    named = {group for group in groups() if f"[`{group}`]" in README}
    checked = {"data", "tokenizer", "model", "router", "optimizer", "lifecycle", "scenario"}
    checked |= {"tracking"}
    assert checked <= named
    for group in sorted(checked):
        row = re.search(rf"^\| \[`{group}`\]\(\S+\) \| (.*) \|$", README, flags=re.MULTILINE)
        assert row is not None, group
        options = list(re.findall(r"`([a-z_0-9]+)`", row[1]))
        assert sorted(options) == group_options(group), group


def test_its_row_of_the_lifecycles_actions_names_them_and_their_options() -> None:
    row = re.search(r"^\| \[(`lifecycle/.*`)\]\S* \| (.*) \|$", README, flags=re.MULTILINE)
    assert row is not None
    actions = re.findall(r"`([a-z/]+)`", row[1])
    assert sorted(actions) == [group for group in groups() if group.startswith("lifecycle/")]
    options = sorted(re.findall(r"`([a-z]+)`", row[2]))
    assert [group_options(action) for action in actions] == [options] * len(actions)


@pytest.mark.parametrize("page", PAGES)
def test_their_links_lead_to_files_and_headings(page: str) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in anchors, f"{target}#{heading}"


@pytest.mark.parametrize("script", ["readme_tables.py", "log_tables.py"])
def test_their_generated_tables_are_current(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_field_that_a_reader_of_logs_takes_is_described() -> None:
    text = PAGES["chronorun/analysis/README.md"]
    structs = [kind for kind in vars(records).values() if isinstance(kind, msgspec.StructMeta)]
    fields = {f.encode_name for kind in structs for f in msgspec.structs.fields(kind)}
    assert len(fields) > 30
    assert sorted(name for name in fields if f"`{name}`" not in text) == []


def test_the_states_of_an_expert_are_drawn_as_they_are() -> None:
    drawn = re.findall(
        r"^    (\w+) --> (\w+):", PAGES["chronorun/lifecycle/README.md"], re.MULTILINE
    )
    moves = [(str(a), str(b)) for a, others in TRANSITIONS.items() for b in others]
    assert sorted(drawn) == sorted(moves)


def test_every_direct_dependency_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    wanted = {re.split(r"[<>=\[]", name)[0] for name in [*project["dependencies"], *extras]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].replace("_", "-").lower() for line in lines if "==" in line}
    assert wanted - pinned == set()
    assert "torch==2.13.0" in lines
