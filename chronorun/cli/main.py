"""The entry point of ``chronorun``: how errors reach a person, and the exit codes."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

from chronorun.core.terminal import flush_streams, open_streams, tell
from chronorun.core.text import one_line
from chronorun.errors import ChronorunError

BROKEN_PIPE = 141


def main() -> None:
    """Run the command line of this process and exit with its code."""
    open_streams()
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one line on standard error."""
    code = _run_reported(arguments)
    # What a command printed may still be on its way.
    lost = flush_streams()
    return _output_lost(lost) if lost is not None and not code else code


def _run_reported(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["_complete"]:
        # Asked at every <Tab>: not worth the import of a command-line library.
        from chronorun.cli.completion import print_completions

        return print_completions(arguments[1:])
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            # Typer's answer to one.
            return BROKEN_PIPE
        # Hydra exits after its own help.
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BrokenPipeError:
        return BROKEN_PIPE
    except ChronorunError as error:
        return _report(str(error), error.exit_code, error, debug)
    except KeyboardInterrupt as error:
        return _report("interrupted", 130, error, debug)
    except OSError as error:
        lost = flush_streams()
        if lost is not None:
            return _output_lost(lost)
        return _report(f"files: {error}; see that the path is there and writable", 3, error, debug)
    except Exception as error:
        if _is_out_of_memory(error):
            return _report("out of memory; lower training.batch_size or the model", 1, error, debug)
        kind = type(error).__name__
        return _report(f"unexpected {kind}: {error}; run again with --debug", 1, error, debug)


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out; torch says so of its own in words."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calc")
    is_torchs = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return isinstance(error, MemoryError) or is_torchs


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
    flush_streams()
    tell(f"chronorun: error: {one_line(message)}")
    return code


def _output_lost(error: OSError) -> int:
    """Say why standard output did not take what was printed; return the exit code."""
    if error.errno == errno.EPIPE:
        # Whoever read it has had enough.
        return BROKEN_PIPE
    tell(
        f"chronorun: error: standard output: it cannot be written ({error.strerror}); "
        f"send it to a file or a program that takes it"
    )
    return 3
