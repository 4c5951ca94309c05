"""Tokenizers: bytes as they are, or a byte-level BPE trained on the train split.

The BPE is that of the ``tokenizers`` library (Sennrich et al. 2016, arXiv:1508.07909, over bytes),
which is imported only when one is made or loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from chronorun.config.data import TokenizerConfig, TokenizerKind
from chronorun.core.files import write_atomically
from chronorun.errors import StorageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

TOKENIZER_FILE = "tokenizer.json"
TokenArray = npt.NDArray[np.uint16]


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""

    def encode(self, text: str) -> list[int]:
        """Cut text into token ids."""

    def encode_documents(self, texts: Sequence[str]) -> TokenArray:
        """Encode each text by itself and join the ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; bytes that are not UTF-8 become U+FFFD."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return exactly the bytes of the ids."""

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""


class ByteTokenizer:
    """One token a byte of UTF-8; 256 ids."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text (undecodable bytes of a command line included)."""
        return list(text.encode("utf-8", "surrogateescape"))

    def encode_documents(self, texts: Sequence[str]) -> TokenArray:
        """Return the bytes of all texts."""
        joined = "".join(texts).encode("utf-8", "surrogateescape")
        return np.frombuffer(joined, dtype=np.uint8).astype(np.uint16)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the ids as bytes."""
        return bytes(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into the folder."""
        text = json.dumps({"kind": "byte", "vocab_size": self.vocab_size}) + "\n"
        write_atomically(folder / TOKENIZER_FILE, text.encode())


class BPETokenizer:
    """Byte-level BPE: any text can be encoded, and decoding gives back its exact bytes."""

    def __init__(self, library_tokenizer: LibraryTokenizer) -> None:
        self._library = library_tokenizer
        self.vocab_size: int = library_tokenizer.get_vocab_size()
        letters = {letter: bytes([byte]) for byte, letter in enumerate(_byte_letters())}
        self._bytes_of = [
            b"".join(letters[letter] for letter in (library_tokenizer.id_to_token(i) or ""))
            for i in range(self.vocab_size)
        ]

    def encode(self, text: str) -> list[int]:
        """Cut text into token ids."""
        # The library takes no surrogates; a command line with broken bytes holds some.
        clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        ids: list[int] = self._library.encode(clean).ids
        return ids

    def encode_documents(self, texts: Sequence[str]) -> TokenArray:
        """Encode each text by itself, in parallel, and join the ids."""
        parts = [np.empty(0, dtype=np.uint16)]
        for start in range(0, len(texts), 256):  # bounds the memory that encodings take
            batch = self._library.encode_batch_fast(list(texts[start : start + 256]))
            parts += [np.asarray(encoding.ids, dtype=np.uint16) for encoding in batch]
        return np.concatenate(parts)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return exactly the bytes of the ids."""
        return b"".join(self._bytes_of[i] for i in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, in the library's own format, into the folder."""
        write_atomically(folder / TOKENIZER_FILE, self._library.to_str(pretty=True).encode())


def make_tokenizer(config: TokenizerConfig, train_texts: Iterable[str]) -> Tokenizer:
    """Make the tokenizer of the configuration; a BPE is trained on ``train_texts`` alone.

    A small text may yield fewer tokens than asked for: use the tokenizer's ``vocab_size``.
    """
    if config.kind is TokenizerKind.byte:
        return ByteTokenizer()
    return _train_bpe(config.vocab_size, train_texts)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load what ``save`` wrote. Raises StorageError when it is missing or damaged."""
    path = Path(folder) / TOKENIZER_FILE
    try:
        text = path.read_text(encoding="utf-8")
        if json.loads(text).get("kind") == "byte":
            return ByteTokenizer()
        from tokenizers import Tokenizer as LibraryTokenizer

        return BPETokenizer(LibraryTokenizer.from_str(text))
    except Exception as error:  # the library raises plain Exception for a damaged file
        raise StorageError(
            f"tokenizer: file={path}, expected a tokenizer saved by a run ({error}); "
            f"restore the file or train again"
        ) from error


def _train_bpe(vocab_size: int, texts: Iterable[str]) -> BPETokenizer:
    from tokenizers import Tokenizer as LibraryTokenizer, decoders, models, pre_tokenizers, trainers

    library = LibraryTokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    library.train_from_iterator(texts, trainer=trainer)
    return BPETokenizer(library)


def _byte_letters() -> list[str]:
    """Return the printable letter that byte-level BPE writes for each byte.

    Printable Latin-1 bytes stand for themselves, the others for the letters from U+0100 on
    (Radford et al. 2019, the convention of every byte-level BPE file).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters: list[str] = []
    others = 0
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(0x100 + others))
            others += 1
    return letters
