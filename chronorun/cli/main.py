"""The ``chronorun`` command: its sub-commands, and how errors reach a person."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from chronorun import __version__
from chronorun.cli import completion
from chronorun.cli.terminal import harmless
from chronorun.errors import ChronorunError

app = typer.Typer(
    name="chronorun",
    help="Train Mixture-of-Experts language models and watch, steer and question their experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PASS_THROUGH = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chronorun {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks (works after a command, too).")
    ] = False,
) -> None:
    """Describe the program; sub-commands do the work."""


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train one run, or a sweep with --multirun: chronorun train key=value group=option."""
    from chronorun.cli.train import train_command

    train_command(context.args)


@app.command()
def sample(
    run: Annotated[str, typer.Argument(help="Run folder, such as outputs/run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option(help="Tokens to add.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the likeliest k tokens.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
    checkpoint: Annotated[
        str, typer.Option(help="last, best, or the path of a checkpoint.")
    ] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print how a trained model continues a prompt."""
    from chronorun.cli.sample import sample_command

    sample_command(run, prompt, tokens, temperature, top_k, seed, checkpoint, as_json)


@app.command("completion")
def completion_command(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print a completion script: eval "$(chronorun completion bash)"."""
    typer.echo(completion.script(shell), nl=False)


@app.command("_complete", hidden=True, context_settings=PASS_THROUGH, add_help_option=False)
def complete(context: typer.Context) -> None:
    """Print completions of the last word of a command line (used by the scripts)."""
    for candidate in completion.complete(context.args):
        typer.echo(candidate)


def main() -> None:
    """Run the command line; one line and an exit code for what goes wrong."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.exit(_run([word for word in arguments if word != "--debug"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    import click

    try:
        result = app(args=arguments, standalone_mode=False, prog_name="chronorun")
    except ChronorunError as error:
        return _report(str(error), error.exit_code, error, debug)
    except click.ClickException as error:
        return _report(f"command line: {error.format_message()}", 2, error, debug)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", 130, None, False)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _report(f"files: {error}", 3, error, debug)
    except Exception as error:
        kind = type(error).__name__
        message = f"unexpected {kind}: {error}; run again with --debug and report it"
        return _report(message, 1, error, debug)
    return result if isinstance(result, int) else 0


def _report(message: str, code: int, error: BaseException | None, debug: bool) -> int:
    if debug and error is not None:
        raise error
    sys.stderr.write(f"chronorun: error: {harmless(' '.join(message.split()))}\n")
    return code
