"""The commands of ``chronorun`` with their options and help texts, declared for Typer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chronorun import __version__

app = typer.Typer(
    name="chronorun",
    help="Train Mixture-of-Experts language models; watch, steer and analyse their experts.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Hydra parses the arguments of such a command.
PASS_THROUGH: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback after an error.")]


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
    """Hold the options of the program itself."""


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def train(context: typer.Context, debug: Debug = False) -> None:
    """Train one run, or a sweep with --multirun."""
    from chronorun.cli.train import train_command

    train_command(context.args)


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def bench(context: typer.Context, debug: Debug = False) -> None:
    """Compare runs with and without the lifecycle over seeds."""
    from chronorun.cli.bench import bench_command

    code = bench_command(context.args)
    if code:
        raise typer.Exit(code)


@app.command()
def sample(
    run: Annotated[str, typer.Argument(help="Run folder, such as outputs/run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    tokens: Annotated[int, typer.Option(help="Number of tokens to generate.", min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 takes the most likely token.", min=0.0)
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample from the k most likely tokens.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0)] = 0,
    checkpoint: Annotated[
        str, typer.Option(help="last, best, or the folder of a checkpoint.")
    ] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    debug: Debug = False,
) -> None:
    """Print how a trained model continues a prompt."""
    from chronorun.cli.sample import sample_command

    sample_command(run, prompt, tokens, temperature, top_k, seed, checkpoint, as_json)


@app.command("inspect")
def inspect_(
    path: Annotated[
        str, typer.Argument(help="Run folder, sweep folder, or any .jsonl log of a run.")
    ],
    why: Annotated[
        str | None,
        typer.Option(help="Explain one expert, such as L2_E5: its edits, and why not others."),
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Only this layer; repeatable.", min=0)
    ] = None,
    expert: Annotated[list[str] | None, typer.Option(help="Only this expert; repeatable.")] = None,
    action: Annotated[
        list[str] | None,
        typer.Option(help="Only spawn, prune, split, merge, revive or rollback; repeatable."),
    ] = None,
    since: Annotated[int | None, typer.Option(help="First step to show.")] = None,
    until: Annotated[int | None, typer.Option(help="Last step to show.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    plot: Annotated[
        str | None, typer.Option(help="Write a chart of the run to this .png or .svg file.")
    ] = None,
    html: Annotated[
        str | None, typer.Option(help="Write the run's report to this .html file.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep printing until the run has completed.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show what happened in a run and why, or read one log."""
    from chronorun.analysis.inspect.filters import make_filters
    from chronorun.cli.inspect import Wanted, inspect_command

    filters = make_filters(layer or [], expert or [], action or [], since, until)
    inspect_command(path, Wanted(filters, why, as_json, as_csv, plot, html, follow))


@app.command("replay")
def replay_(
    run: Annotated[str, typer.Argument(help="Run folder, or a folder of runs.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Also show what these would have changed: lifecycle.prune_patience=3."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    debug: Debug = False,
) -> None:
    """Derive a run's decisions again from its logs; compare."""
    from chronorun.cli.replay import replay_command

    code = replay_command(run, overrides or [], as_json)
    if code:
        raise typer.Exit(code)


@app.command("completion")
def completion(
    shell: Annotated[
        str | None, typer.Argument(help="bash, zsh or fish (default: from $SHELL).")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print a shell's completion script.

    Use it as in: eval "$(chronorun completion bash)"
    """
    from chronorun.cli.completion_scripts import script

    typer.echo(script(shell), nl=False)
