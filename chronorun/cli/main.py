"""The entry point of ``chronorun``: how errors reach a person, and the exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from chronorun.core.text import harmless
from chronorun.errors import ChronorunError


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one line on standard error."""
    if arguments[:1] == ["_complete"]:
        # Asked at every <Tab>: not worth the import of a command-line library.
        from chronorun.cli.completion import print_completions

        return print_completions(arguments[1:])
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except SystemExit as leaving:
        # Hydra exits after its own help.
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ChronorunError as error:
        return _report(str(error), error.exit_code, error, debug)
    except KeyboardInterrupt as error:
        return _report("interrupted", 130, error, debug)
    except OSError as error:
        return _report(f"files: {error}; see that the path is there and writable", 3, error, debug)
    except MemoryError as error:
        return _report("out of memory; lower training.batch_size or the model", 1, error, debug)
    except Exception as error:
        kind = type(error).__name__
        return _report(f"unexpected {kind}: {error}; run again with --debug", 1, error, debug)


def _run(arguments: Sequence[str]) -> int:
    import typer

    from chronorun.cli.app import app

    try:
        result = app(
            args=list(arguments) or ["--help"], standalone_mode=False, prog_name="chronorun"
        )
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer's errors of usage share a base class that it does not export.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        message = f"command line: {explain().rstrip('.')}; see chronorun --help"
        return _report(message, 2, error, "--debug" in arguments)
    if result == 130:
        # Typer turns Ctrl-C into an exit code.
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _report(message: str, code: int, error: BaseException, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.write(f"chronorun: error: {harmless(' '.join(message.split()))}\n")
    return code
