"""What is printed reaches any terminal, and closed or full streams end in a documented code."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from chronorun.core.terminal import open_streams


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_text_that_a_terminal_does_not_know_is_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    open_streams()
    print("def \ufffd 字 é")
    sys.stdout.flush()
    assert raw.getvalue().startswith(b"def \\ufffd \\u5b57 ")


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m chronorun {script}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("inspect log.jsonl --json >&-", 0),
        ("inspect log.jsonl --json 2>&-", 0),
        ("inspect log.jsonl --json >/dev/full", 3),
        ("inspect nothing.jsonl 2>&-", 2),
    ],
)
def test_closed_and_full_streams_show_no_traceback(tmp_path: Path, script: str, code: int) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "val/loss": 2.0}\n')
    done = run(script, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


def test_a_log_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'\xef\xbb\xbf{"step": 1, "val/loss": 2.0}\n')
    done = run("inspect log.jsonl", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
