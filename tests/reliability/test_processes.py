"""Two processes train what one trains; where they part ways, or one is lost, both end."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from warm.commands import Commands

from chronorun.analysis.reading.run import Run
from chronorun.analysis.replay.derive import replay_run
from chronorun.analysis.replay.whatif import what_if
from chronorun.config.lifecycle import LifecycleConfig
from reliability import nano
from reliability.figures import Figures
from reliability.ranks import Ended, Pair

FIXTURES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "two_processes").glob("*.json"))
}
MARGIN = 1e-3
THRESHOLDS = (
    "spawn_entropy_threshold", "spawn_overflow_threshold", "split_share_threshold",
    "split_share_ratio", "merge_similarity_threshold", "merge_overlap_threshold",
    "harm_tolerance", "revive_overlap_threshold", "spawn_entropy_drop",
)  # fmt: skip
TOLD = re.compile(r"digest of (.+) is ([0-9a-f]{15}) \(rank 0\), ([0-9a-f]{15}) \(rank 1\)")


@pytest.fixture(scope="session")
def pair(run_command: Commands) -> Pair:
    return Pair(run_command)


@pytest.fixture(scope="session")
def two(
    pair: Pair, overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A run of two processes that nothing befell, with edits of each kind."""
    folder = tmp_path_factory.mktemp("two")
    often = ("training.checkpoint_interval=1", "training.keep_last=100")
    ends = pair(folder, "train", *overrides, *often)
    assert [end.code for end in ends] == [0, 0], ends
    yield folder / "outputs" / "x"
    shutil.rmtree(folder, ignore_errors=True)


def decisions(run: Path) -> list[list[Any]]:
    """Return (action, layer, expert, step) of each edit, in the order of decisions."""
    path = run / "lifecycle_decisions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["seq"])
    return [[line["action"], line["layer_id"], line["expert_id"], line["step"]] for line in lines]


def margins_hold(run: Path) -> bool:
    """Say whether a threshold moved by the margin, either way, would have changed no decision."""
    config = LifecycleConfig()
    with (run / "config.yaml").open(encoding="utf-8") as file:
        text = file.read()
    for name in THRESHOLDS:
        found = re.search(rf"^  {name}: (\S+)$", text, re.MULTILINE)
        value = found.group(1) if found else str(getattr(config, name))
        if value == "null":
            continue
        for moved in (float(value) + MARGIN, float(value) - MARGIN):
            if what_if(Run.open(run), [f"lifecycle.{name}={moved!r}"]).changes():
                return False
    return True


@pytest.mark.parametrize("name", FIXTURES)
def test_two_processes_decide_what_one_decides(
    name: str,
    pair: Pair,
    run_command: Commands,
    place: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and name != min(FIXTURES):
        pytest.skip("needs --exhaustive")
    fixture = FIXTURES[name]
    arguments = ("train", *nano.NANO, "edits=policy", *fixture["overrides"], "run_id=x")
    alone = run_command(place / "one", *arguments)
    assert alone.code == 0, alone.told
    ends = pair(place / "two", *arguments, agent=exhaustive)
    assert [end.code for end in ends] == [0, 0], ends
    one, two = (place / number / "outputs" / "x" for number in ("one", "two"))
    assert margins_hold(one)
    assert decisions(one) == fixture["decisions"]
    assert count("decisions of two processes, those of one", decisions(two) == decisions(one))
    assert replay_run(Run.open(two)).is_reproduced
    files = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert files[0] == files[1]


DISAGREEMENTS = {
    "count": ("other_count", {"step": 15}, "the routing counts and losses after step 15"),
    "policy input": ("other_input", {"step": 15}, "policy inputs and decisions after step 15"),
    "weights": ("other_weights", {}, "configuration, corpus and initial weights"),
    "edit": ("other_edit", {"step": 15}, "the expert population after step 20"),
}


@pytest.mark.parametrize("agent", [True, False], ids=["torchrun", "alone"])
@pytest.mark.parametrize("kind", DISAGREEMENTS)
def test_a_disagreement_ends_both_with_both_digests(
    kind: str,
    agent: bool,
    pair: Pair,
    overrides: tuple[str, ...],
    place: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and (kind != "edit" or agent):
        pytest.skip("needs --exhaustive")
    name, how, what = DISAGREEMENTS[kind]
    ends = pair(place, "train", *overrides, faults={1: [(name, how)]}, agent=agent)
    assert [end.code for end in ends] == [5, 5], ends
    told = [TOLD.search(end.err) for end in ends]
    assert all(one is not None and one.group(1) == what for one in told), ends
    assert len({one.groups() for one in told if one}) == 1
    assert all("Traceback" not in end.err for end in ends)
    [struck] = place.glob("ranks-*/struck")
    saved = [path.stat().st_mtime for path in place.glob("outputs/x/checkpoints/step_*")]
    assert max(saved, default=0.0) < struck.stat().st_mtime
    held = all(end.after_s < 30.0 for end in ends)
    assert count(f"other {kind} in one of two processes: both exit 5, nothing saved", held), ends


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [1, 0])
def test_nobody_waits_for_a_process_that_is_lost(
    rank: int,
    number: signal.Signals,
    pair: Pair,
    overrides: tuple[str, ...],
    place: Path,
    two: Path,
    count: Figures,
    exhaustive: bool,
) -> None:
    if not exhaustive and (rank, number) != (1, signal.SIGKILL):
        pytest.skip("needs --exhaustive")
    faults = {rank: [("signal_before", {"step": 18, "number": int(number)})]}
    ends = pair(place, "train", *overrides, faults=faults)
    other = ends[1 - rank]
    assert other.code == 5, ends
    assert "chronorun: error: processes: another of the 2 was lost" in other.err
    assert "Traceback" not in other.err
    assert other.after_s < 30.0, ends
    done = pair(place, "train", *overrides, "resume=auto")
    assert [end.code for end in done] == [0, 0], done
    held = nano.differences(two, place / "outputs" / "x") == []
    assert count(f"one of two processes got {number.name}: the other exits 5, resumed", held)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("first", "then"), [(2, 2), (2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    first: int,
    then: int,
    pair: Pair,
    run_command: Commands,
    overrides: tuple[str, ...],
    place: Path,
    two: Path,
    uninterrupted: Path,
    count: Figures,
) -> None:
    # In the middle of a window, whose parts are then added up and handed out.
    step, source = 18, {1: uninterrupted, 2: two}[first]
    run = nano.copy_until(source, place / "outputs" / "x", step)
    if then == 1:
        done = run_command(place, "train", *overrides, "resume=auto")
        assert done.code == 0, done.told
    else:
        ends = pair(place, "train", *overrides, "resume=auto")
        assert [end.code for end in ends] == [0, 0], ends
    if first == then:
        held = nano.differences(source, run) == []
    else:
        expected = decisions(source)
        losses = zip(_losses(source), _losses(run), strict=True)
        held = decisions(run) == expected and all(abs(a - b) < MARGIN for a, b in losses)
    assert count(f"saved by {first} processes, resumed by {then}", held)


def _losses(run: Path) -> list[float]:
    return [float.fromhex(bits) for _, bits in nano.loss_bits(run)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("agent", [True, False], ids=["torchrun", "alone"])
def test_a_signal_to_one_process_stops_both_after_the_same_step(
    agent: bool,
    pair: Pair,
    overrides: tuple[str, ...],
    place: Path,
    two: Path,
    count: Figures,
) -> None:
    fault = ("signal_before", {"step": 17, "number": int(signal.SIGTERM)})
    ends = pair(place, "train", *overrides, faults={1: [fault]}, agent=agent)
    assert [end.code for end in ends] == [143, 143], ends
    run = place / "outputs" / "x"
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step_00000018"
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    done = pair(place, "train", "resume=outputs/x")
    assert [end.code for end in done] == [0, 0], done
    held = nano.differences(two, run) == []
    assert count("SIGTERM to one of two processes: saved, both exit 143, resumed", held)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_in_one_process_stops_both_before_the_update(
    what: str,
    rank: int,
    pair: Pair,
    overrides: tuple[str, ...],
    place: Path,
    count: Figures,
) -> None:
    # The other one is watched, too: times 1 spoils no loss.
    how = {"what": what, "value": float("nan"), "step": 17, "path": f"unchanged{rank}"}
    harmless = {"what": "loss", "value": 1.0, "step": 17, "path": f"unchanged{1 - rank}"}
    faults = {rank: [("poison", how)], 1 - rank: [("poison", harmless)]}
    ends = pair(place, "train", *overrides, faults=faults)
    assert [end.code for end in ends] == [4, 4], ends
    assert all("at step 17 is not finite" in end.err for end in ends), ends
    unchanged = [(place / f"unchanged{one}").read_text(encoding="utf-8") for one in (0, 1)]
    held = unchanged == ["True", "True"]
    assert count(f"NaN in a {what} of one of two processes: both exit 4, no update", held)


@pytest.mark.exhaustive
def test_what_several_processes_cannot_do_is_said_before_a_folder_is_made(
    pair: Pair, overrides: tuple[str, ...], place: Path
) -> None:
    ends = pair(place, "train", *overrides, "training.batch_size=3")
    assert_told(
        ends,
        "processes: training.batch_size=3, expected a multiple of 2 processes x "
        "training.grad_accum_steps=1; change one of them",
    )
    ends = pair(place, "train", *overrides, "--multirun", "seed=0,1")
    assert_told(
        ends,
        "command line: --multirun or --experimental-rerun given, expected one run while several "
        "processes train it; drop the flag, or start the sweep without torchrun",
    )
    assert not (place / "outputs").exists()


def test_a_mistake_that_the_run_folder_shows_is_told_by_each_process(
    pair: Pair, overrides: tuple[str, ...], place: Path
) -> None:
    (place / "outputs" / "x").mkdir(parents=True)
    ends = pair(place, "train", *overrides)
    assert [end.code for end in ends] == [2, 2], ends
    assert_told(
        ends,
        "run folder: outputs/x exists already, expected a new run_id; "
        "add resume=auto to continue it, or choose another run_id",
    )


def assert_told(ends: list[Ended], message: str) -> None:
    # Who is last may have been ended by torchrun before it could say the same.
    told = [end.err.splitlines()[-1] for end in ends if end.code == 2]
    assert told, ends
    assert set(told) == {f"chronorun: error: {message}"}
