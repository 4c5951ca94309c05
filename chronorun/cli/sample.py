"""``chronorun sample``: text from a trained model."""

from __future__ import annotations

from pathlib import Path

from chronorun.core.text import harmless


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
        from chronorun.analysis.inspect.output import to_json

        record = {"run": run, "prompt": prompt, "continuation": text, "seed": seed}
        print(to_json(record))
        return
    print(harmless(prompt + text, keep="\n\t"))
