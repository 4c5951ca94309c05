"""The commands of ``chronorun``, as Typer sees them: names, options, help."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chronorun import __version__

app = typer.Typer(
    name="chronorun",
    help="Train Mixture-of-Experts language models and watch, steer and question their experts.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Hydra parses what follows such a command.
PASS_THROUGH: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]


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
    debug: Debug = False,
) -> None:
    """Describe the program; the commands do the work."""


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def train(context: typer.Context, debug: Debug = False) -> None:
    """Train one run, or a sweep with --multirun."""
    from chronorun.cli.train import train_command

    train_command(context.args)


@app.command()
def sample(
    run: Annotated[str, typer.Argument(help="Run folder, such as outputs/run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    tokens: Annotated[int, typer.Option(help="Tokens to add.", min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(help="Spread of the draws; 0 takes the likeliest token.", min=0.0)
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the likeliest k tokens.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
    checkpoint: Annotated[
        str, typer.Option(help="last, best, or the folder of a checkpoint.")
    ] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    debug: Debug = False,
) -> None:
    """Print how a trained model continues a prompt."""
    from chronorun.cli.sample import sample_command

    sample_command(run, prompt, tokens, temperature, top_k, seed, checkpoint, as_json)


@app.command("completion")
def completion(
    shell: Annotated[
        str | None, typer.Argument(help="bash, zsh or fish; that of $SHELL if not given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print a completion script: eval "$(chronorun completion bash)"."""
    from chronorun.cli.completion import script

    typer.echo(script(shell), nl=False)
