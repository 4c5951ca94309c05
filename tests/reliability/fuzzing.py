"""What hostile input is made of, and what a command may answer to it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warm.commands import Commands

from reliability.figures import Figures

DOCUMENTED = {0, 2, 3, 4}
MOST_KIB = 1 << 20

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    -(2**63),
    10**30,
    1e308,
    -0.0,
    1e-320,
    "",
    "x" * 3000,
    "L0_E0",
    "../../../etc/passwd",
    "\u0000",
    "\x1b[31mred\x1b[0m\r\n",
    "\ud7ff\u202e\U0001f600",
    "NaN",
    [],
    [[[[]]]],
    {},
    {"a": {"b": [1, 2, {"c": None}]}},
    [0] * 500,
    {"__tensor__": "model.w"},
)


def hostile_value(draw: random.Random) -> Any:
    value = draw.choice(VALUES)
    if value == [[[[]]]] and draw.random() < 0.5:
        for _ in range(draw.choice((60, 400))):
            value = [value]
    return value


def spoil_value(data: Any, draw: random.Random) -> Any:
    """Return nested data with one value, key or element somewhere in it replaced or dropped."""
    if isinstance(data, dict) and data and draw.random() < 0.9:
        key = draw.choice(sorted(data))
        if draw.random() < 0.15:
            return {k: v for k, v in data.items() if k != key}
        return data | {key: spoil_value(data[key], draw)}
    if isinstance(data, list) and data and draw.random() < 0.8:
        place = draw.randrange(len(data))
        if draw.random() < 0.2:
            return data[:place] + data[place + 1 :]
        return [*data[:place], spoil_value(data[place], draw), *data[place + 1 :]]
    return hostile_value(draw)


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return content with bytes flipped, dropped, put in, doubled or cut off."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(data) + 1)
        how = draw.randrange(5)
        if how == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif how == 1:
            del data[place : place + draw.choice((1, 5, 200))]
        elif how == 2:
            data[place:place] = draw.choice((b"\n", b"\x00", b"\xff\xfe", b"{", b"]", b'"', b"9"))
        elif how == 3:
            data[place:place] = data[: draw.choice((10, 300))]
        elif how == 4:
            del data[place:]
    return bytes(data)


def answer_is_documented(result: dict[str, Any]) -> bool:
    """Say whether a command ended as documented: in time, one line, no traceback."""
    err = result["err"]
    if "Traceback" in err or "unexpected " in err:
        return False
    errors = re.findall(r"^chronorun: error: ", err, flags=re.MULTILINE)
    # 1 is what replay answers where it finds a difference.
    allowed = DOCUMENTED | ({1} if not errors else set())
    return result["code"] in allowed and len(errors) <= 1


def run_cases(
    run_command: Commands,
    place: Path,
    cases: Sequence[tuple[Path, list[str]]],
    count: Figures,
    what: str,
    *,
    train: bool = False,
) -> None:
    """Run cases in one child, and fail with all that were not answered as they should be."""
    given, results = place / "cases.json", place / "results.json"
    given.write_text(json.dumps([[str(cwd), arguments] for cwd, arguments in cases]))
    batch = {"cases": str(given), "results": str(results), "train": train}
    done = run_command(place, batch=batch, limit_s=60.0 * len(cases))
    found = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    assert len(found) == len(cases), f"{cases[len(found)]} ended the process: {done.err[-2000:]}"
    wrong = [
        (case[1], result)
        for case, result in zip(cases, found, strict=True)
        if not count(what, answer_is_documented(result))
    ]
    assert not wrong, "\n".join(f"{arguments}: {result}" for arguments, result in wrong[:20])
    assert done.peak_kib < MOST_KIB, done.peak_kib
