"""What the ids of a text mean: characters, or the tokens of a `tokenizers` file. Kept with the run, so that generation can print text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...core.errors import DataError


class Vocabulary(Protocol):
    """Text to ids and back."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> np.ndarray:
        """Ids int32[n]; DataError for what the vocabulary lacks."""
        ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def symbol(self, id: int) -> str:
        """One id as text for messages."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Characters:
    """Each character of `symbols` is one id, in order."""

    symbols: str

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _table(self) -> np.ndarray:
        codes = _codes(self.symbols)
        table = np.full(int(codes.max(initial=0)) + 2, -1, np.int32)
        table[codes] = np.arange(len(codes), dtype=np.int32)
        return table

    def encode(self, text: str) -> np.ndarray:
        codes = _codes(text)
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        if (ids < 0).any():
            at = int(np.argmax(ids < 0))
            line = text.count("\n", 0, at) + 1
            raise DataError(
                f"the character {text[at]!r} (line {line}, position {at}) is not in the vocabulary of {len(self)} characters",
                help="text(..., fold=true) folds a text to printable ASCII",
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.symbols[i] if 0 <= i < len(self.symbols) else "\N{REPLACEMENT CHARACTER}" for i in ids)

    def symbol(self, id: int) -> str:
        return f"the character {self.symbols[id]!r}" if 0 <= id < len(self.symbols) else f"id {id}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": "characters", "symbols": self.symbols}


@dataclass(frozen=True)
class TokenizerFile:
    """The tokens of a `tokenizers` JSON file, kept as its text."""

    definition: str
    name: str = "tokenizer.json"

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise DataError(f"{self.name} needs the package 'tokenizers'", help="pip install tokenizers") from None
        try:
            return tokenizers.Tokenizer.from_str(self.definition)
        except Exception as error:  # the package raises plain Exception
            raise DataError(f"{self.name}: not a tokenizers file: {error}") from None

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))

    def symbol(self, id: int) -> str:
        return f"the token {self._tokenizer.id_to_token(id)!r}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tokenizers", "definition": self.definition, "name": self.name}


ASCII = Characters("\n" + "".join(map(chr, range(32, 127))))

_PLAIN = str.maketrans(
    {
        "\t": "    ", "\r": "", "\f": "\n", "\v": "\n", "\x85": "\n", "\u2028": "\n", "\u2029": "\n\n",
        "‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "′": "'", "″": '"',
        "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "--", "―": "--", "−": "-", "•": "*", "·": ".", "×": "x", "÷": "/",
        "←": "<-", "→": "->", "≤": "<=", "≥": ">=", "≠": "!=", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ß": "ss",
        "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "\u200b": "", "\ufeff": "",
    }
)  # fmt: skip


def folded(text: str) -> str:
    """A text in the 96 symbols of `ASCII`: accents dropped, typographic signs spelled out, what is left over as '?'."""
    if text.isascii() and "\t" not in text and text.isprintable():
        return text
    plain = unicodedata.normalize("NFKD", text.replace("\r\n", "\n").translate(_PLAIN))
    kept = [c for c in plain if not unicodedata.combining(c)]
    return "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in kept)


def of_text(text: str) -> Characters:
    """The characters that occur in a text, in the order of their code points."""
    return Characters("".join(map(chr, np.unique(_codes(text)))))


def from_file(path: Path) -> TokenizerFile:
    """A `tokenizers` file."""
    try:
        return TokenizerFile(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not a tokenizers file'}") from None


def from_json(value: Any) -> Vocabulary:
    """What `to_json` wrote; DataError for anything else."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "characters" and isinstance(value.get("symbols"), str):
        return Characters(value["symbols"])
    if kind == "tokenizers" and isinstance(value.get("definition"), str):
        return TokenizerFile(value["definition"], str(value.get("name", "tokenizer.json")))
    raise DataError("the vocabulary that was kept with the run is damaged")


def _codes(text: str) -> np.ndarray:
    """Code points uint32[n]; lone surrogates pass through."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
