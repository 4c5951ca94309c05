"""The report of a real run, as it is written and as a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from conftest import NANO, Chronorun, RunOf

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on the PATH (Debian package chromium)"
)
LIVELY = (
    *NANO,
    "lifecycle=aggressive",
    "experiment=overprovisioned",
    "training.max_steps=300",
    "training.eval_interval=20",
    "training.checkpoint_interval=100",
    "lifecycle.lifecycle_warmup_steps=60",
)


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium with a profile of its own."""
    assert BROWSER is not None
    return subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={profile}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the page said in the browser's console."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def pixels(png: Path) -> set[bytes]:
    """Return the colours of a screenshot (8 bits a channel, as Chromium writes it)."""
    data = png.read_bytes()
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    size = {2: 3, 6: 4}[kind]
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(packed)
    stride = width * size
    above = bytearray(stride)
    found: set[bytes] = set()
    for row in range(height):
        start = row * (stride + 1)
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, above, size)
        found.update(bytes(line[i : i + 3]) for i in range(0, stride, size))
        above = line
    return found


def _unfilter(kind: int, line: bytearray, above: bytearray, size: int) -> None:
    for i in range(len(line)):
        left = line[i - size] if i >= size else 0
        corner = above[i - size] if i >= size else 0
        if kind == 1:
            line[i] = (line[i] + left) & 255
        elif kind == 2:
            line[i] = (line[i] + above[i]) & 255
        elif kind == 3:
            line[i] = (line[i] + (left + above[i]) // 2) & 255
        elif kind == 4:
            guess = left + above[i] - corner
            near = min((left, above[i], corner), key=lambda value: abs(guess - value))
            line[i] = (line[i] + near) & 255


def test_a_run_leaves_a_report(run_of: RunOf) -> None:
    text = (run_of("plain", *NANO) / "report.html").read_text(encoding="utf-8")
    assert "Run plain" in text
    assert "completed" in text


def test_a_report_that_cannot_be_written_is_no_reason_to_fail(
    run_of: RunOf, chronorun: Chronorun, tmp_path: Path
) -> None:
    run = tmp_path / "outputs" / "plain"
    shutil.copytree(run_of("plain", *NANO), run)
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    done = chronorun("train", *NANO, "run_id=plain", "resume=auto")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "report.html" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("chronorun: warning: outputs/plain/report.html was not written: ")


@pytest.fixture
def lively(run_of: RunOf) -> Path:
    """Return the folder of a run whose lifecycle acted."""
    return run_of("lively", *LIVELY)


def test_a_report_tells_every_decision(lively: Path) -> None:
    lines = (lively / "lifecycle_decisions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records, "the run was to make edits"
    text = (lively / "report.html").read_text(encoding="utf-8")
    table = text.partition("<tbody>")[2]
    assert table.count("<tr>") == len(records)
    for record in records:
        assert record["expert_id"] in table


@needs_browser
def test_a_browser_shows_the_pictures_and_has_nothing_to_say(lively: Path, tmp_path: Path) -> None:
    done = browse(lively / "report.html", tmp_path / "profile", "--dump-dom")
    assert console(done) == []
    assert done.stdout.count('role="img"') >= 6
    assert done.stdout.count("<path") > 20


@needs_browser
def test_a_browser_would_tell_of_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('no'); missing()</script>", encoding="utf-8")
    assert len(console(browse(page, tmp_path / "profile", "--dump-dom"))) == 2


@needs_browser
def test_a_script_that_got_into_a_report_would_not_run(lively: Path, tmp_path: Path) -> None:
    text = (lively / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    hostile = "<script>document.title = 'taken'</script>"
    page.write_text(text.replace("<main>", "<main>" + hostile), encoding="utf-8")
    done = browse(page, tmp_path / "profile", "--dump-dom")
    assert "<title>taken" not in done.stdout
    assert len(console(done)) == 1


@needs_browser
@pytest.mark.parametrize("width", [pytest.param(400, marks=pytest.mark.whole), 1200])
@pytest.mark.parametrize(
    ("scheme", "paper", "heat"), [(1, "fdfdfc", "1d5c9e"), (0, "14181d", "7ab8f5")]
)
def test_a_report_is_drawn_in_light_and_dark(
    lively: Path, tmp_path: Path, width: int, scheme: int, paper: str, heat: str
) -> None:
    browse(
        lively / "report.html",
        tmp_path / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--window-size={width},1400",
        f"--screenshot={tmp_path / 'page.png'}",
    )
    found = pixels(tmp_path / "page.png")
    assert bytes.fromhex(paper) in found
    assert bytes.fromhex(heat) in found


@needs_browser
def test_a_report_is_printed(lively: Path, tmp_path: Path) -> None:
    browse(lively / "report.html", tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type ?/Page\b", data)) <= 12
