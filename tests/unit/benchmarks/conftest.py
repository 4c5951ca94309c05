"""Lets tests import what the scripts in ``benchmarks/`` import from beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
