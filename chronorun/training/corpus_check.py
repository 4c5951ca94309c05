"""Checks that a resumed run has the corpus and tokenizer that it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chronorun.core.processes import Processes
from chronorun.core.run_files import MANIFEST, TOKENIZER
from chronorun.data import TokenizedCorpus
from chronorun.data.tokenizer import TOKENIZER_FILE, load_tokenizer
from chronorun.errors import StorageError, UserError


def check_same_corpus(
    run_dir: Path, corpus: TokenizedCorpus, accept_changes: bool, processes: Processes
) -> str | None:
    """Refuse to continue on another corpus than the run's, unless that was asked for.

    Returns a notice where the corpus has changed and that was accepted. All processes raise the
    same UserError; nothing in the run folder is touched.
    """
    found = _change(run_dir, corpus) if processes.is_first else ""
    manifest = run_dir / MANIFEST
    lost = processes.is_first and not _manifest(run_dir).get("corpus_hash")
    # The first process will write a new manifest: the others must not compare with that one.
    change = processes.from_first(found)
    if change and not accept_changes:
        raise UserError(
            f"resume: {change}; bring it back, start a new run, or add data.accept_changes=true to "
            f"go on with the run's own tokenizer"
        )
    if lost:
        return f"resume: {manifest} cannot be read; whether the text has changed is not known"
    return f"{change}; going on as data.accept_changes=true says" if change else None


def keeps_tokenizer(run_dir: Path) -> bool:
    """Return whether a run went on with its own tokenizer when its text had changed."""
    return _manifest(run_dir).get("keeps_tokenizer") is True


def _change(run_dir: Path, corpus: TokenizedCorpus) -> str:
    """Return what is not as it was, in words; nothing where all is, or cannot be compared."""
    was = str(_manifest(run_dir).get("corpus_hash") or corpus.corpus_hash)
    if was != corpus.corpus_hash:
        return (
            f"the text of data.source is another one than the run's (corpus_hash="
            f"{corpus.corpus_hash[:12]}, expected {was[:12]} as in {run_dir / 'run_manifest.json'})"
        )
    saved, made = run_dir / TOKENIZER / TOKENIZER_FILE, corpus.folder / TOKENIZER_FILE
    if _is_whole(saved) and saved.read_bytes() != made.read_bytes():
        return (
            f"the tokenizer made from this text is another one than the run's ({made}, expected "
            f"what is in {saved})"
        )
    return ""


def _is_whole(tokenizer: Path) -> bool:
    """Return whether a run's tokenizer can be read; one that is lost is written anew."""
    try:
        load_tokenizer(tokenizer.parent)
    except StorageError:
        return False
    return True


def _manifest(run_dir: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode((run_dir / MANIFEST).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}
