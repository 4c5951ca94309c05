"""One of several processes of a run, as ``torchrun`` starts it, with faults in some of them.

``RANK_FILES`` names a folder for what this process prints and how it ends, ``RANK_FAULTS`` maps a
rank to calls of ``hooks``: the product knows of neither.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    from chronorun.cli.main import run_command_line
    from reliability import hooks

    rank, folder = os.environ["RANK"], Path(os.environ["RANK_FILES"])
    for descriptor, name in ((1, "out"), (2, "err")):
        target = os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, descriptor)
    for name, arguments in json.loads(os.environ["RANK_FAULTS"]).get(rank, []):
        getattr(hooks, name)(**arguments)
    code = run_command_line(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    (folder / f"{rank}.end").write_text(json.dumps({"code": code, "at": time.time()}))
    sys.exit(code)


if __name__ == "__main__":
    main()
