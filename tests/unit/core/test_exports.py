from __future__ import annotations

import subprocess
import sys

import pytest

from chronorun.core.exports import lazy_exports


def test_a_name_is_imported_when_it_is_asked_for() -> None:
    get, names = lazy_exports("chronorun.core", {"LogState": "jsonl", "sha256_file": "files"})
    assert get("LogState").__name__ == "LogState"
    assert names() == ["LogState", "sha256_file"]
    with pytest.raises(AttributeError) as caught:
        get("LogStat")
    assert str(caught.value) == "module 'chronorun.core' has no attribute 'LogStat'"


def test_reading_telemetry_imports_no_torch() -> None:
    program = (
        "import sys; from chronorun.telemetry import RoutingEvent, SystemSnapshot, WindowStats; "
        "from chronorun.telemetry import TelemetryWriter, create_run_manifest; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
