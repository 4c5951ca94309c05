"""Write the tables of the logs' fields in the analysis README, or check that they are current.

    python scripts/log_tables.py [--check]

Names and types come from the records that write the logs; meanings are kept as the table has them.
Exit code 1 with ``--check`` when a table is out of date, and always when a field has no meaning.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "chronorun/analysis/README.md"
TABLE = re.compile(r"<!-- fields of (\S+) -->\n.*?<!-- end of fields -->", re.DOTALL)
ROW = re.compile(r"^\| `(\S+)` \| [^|]* \| (.*) \|$", re.MULTILINE)
RENAMED = {"TransitionRecord": {"before": "from", "after": "to"}}
"""Fields that have another name in their log."""
WORDS = {"int": "integer", "float": "number", "str": "text", "bool": "true, false", "None": "null"}
WORDS |= {"ExpertState": "text", "Dist": "list", "LayerCounters": "object"}


def in_words(annotation: str) -> str:
    """Return a type for people: ``text or null``."""
    parts = [part.strip().split("[")[0] for part in annotation.split("|")]
    other = {"list": "list", "dict": "object", "Metrics": "object", "Mapping": "object"}
    return " or ".join(dict.fromkeys(WORDS.get(part) or other[part] for part in parts))


def table(name: str, meanings: dict[str, str]) -> str:
    """Return the table of a record, ``module.Class``; a meaning that is missing is a ``?``."""
    module, _, kind = name.rpartition(".")
    record = getattr(importlib.import_module(f"chronorun.{module}"), kind)
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(record):
        shown = RENAMED.get(kind, {}).get(field.name, field.name)
        rows.append(f"| `{shown}` | {in_words(str(field.type))} | {meanings.get(shown, '?')} |")
    return "\n".join(rows)


def renewed(found: re.Match[str]) -> str:
    """Return one marked table as the code gives it now."""
    meanings = dict(ROW.findall(found[0]))
    return f"<!-- fields of {found[1]} -->\n\n{table(found[1], meanings)}\n\n<!-- end of fields -->"


def main() -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(description="Write the tables of the logs' fields.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = TABLE.sub(renewed, before)
    if not check:
        README.write_text(after, encoding="utf-8")
    elif before != after:
        print(f"{README.name}: a table is out of date; run python scripts/log_tables.py")
        return 1
    missing = [name for name, meaning in ROW.findall(after) if meaning == "?"]
    if missing:
        print(f"{README.name}: no meaning of {', '.join(missing)}; write one in its row")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
