"""``chronorun sample``: text from a trained model."""

from __future__ import annotations

from pathlib import Path

import typer

from chronorun.cli.terminal import harmless


def sample_command(
    run: str,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    checkpoint: str,
    as_json: bool,
) -> None:
    """Print the prompt and its continuation, control characters escaped."""
    from chronorun.training.sampling import sample_text

    text = sample_text(Path(run), prompt, tokens, temperature, top_k, seed, checkpoint)
    if as_json:
        import msgspec

        record = {"prompt": prompt, "continuation": text, "run": run, "seed": seed}
        typer.echo(msgspec.json.encode(record).decode())
        return
    typer.echo(harmless(prompt + text, keep="\n\t"))
