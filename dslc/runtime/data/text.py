"""Texts as data: windows of characters or tokens, with the same windows one further as targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import DataError
from .columns import WindowColumn
from .dataset import Dataset
from .vocabulary import ASCII, Characters, Vocabulary, folded, from_file, of_text


@dataclass(frozen=True)
class Corpus:
    """A text in memory, with its name for messages and, where it is fixed, its vocabulary."""

    text: str
    name: str = "text"
    vocabulary: Characters | None = None


def text(
    source: str | Path | Sequence[str | Path] | Corpus,
    window: int,
    stride: int | None = None,
    fold: bool = False,
    tokenizer: str | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    folder: Path = Path(),
) -> Dataset:
    """Columns `tokens` and `targets`, int32 windows [window]; targets are shifted by one.

    `source`: a file, several files, or a `Corpus`. A window starts every `stride` tokens (default: `window`, so that windows do not
    overlap). Ids are characters in the order of their code points, the 96 symbols of printable ASCII with `fold`, the tokens of a
    `tokenizers` file with `tokenizer`, or those of `vocabulary` (that of an earlier run).
    """
    corpus = source if isinstance(source, Corpus) else _read(source, folder)
    if window < 1 or (stride is not None and stride < 1):
        raise DataError(f"window={window}, stride={stride}: both must be at least 1")
    content = folded(corpus.text) if fold else corpus.text
    if vocabulary is None:
        if tokenizer is not None:
            vocabulary = from_file(folder / tokenizer)
        else:
            vocabulary = ASCII if fold else corpus.vocabulary or of_text(content)
    ids = vocabulary.encode(content)
    step = stride or window
    rows = (len(ids) - window - 1) // step + 1
    if rows < 1:
        raise DataError(f"{corpus.name} has {len(ids)} tokens, a window with its targets takes {window + 1}")
    known = vocabulary

    def name(index: int) -> str:
        return f"position {index} of {corpus.name}, {known.symbol(int(ids[index]))}"

    columns = {n: WindowColumn(ids, window, step, shift, rows, name) for n, shift in (("tokens", 0), ("targets", 1))}
    return Dataset(columns, corpus.name, vocabulary=vocabulary, ordered=step < window)


def _read(source: str | Path | Sequence[str | Path], folder: Path) -> Corpus:
    """The texts of one or several files, one after the other."""
    paths = [source] if isinstance(source, str | Path) else list(source) if isinstance(source, Sequence) else []
    if not paths or not all(isinstance(p, str | Path) for p in paths):
        raise DataError("text needs a file name, a list of file names, or a text such as pydoc_topics()")
    parts = []
    for path in paths:
        try:
            parts.append((folder / path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return Corpus("\n".join(parts), str(paths[0]) if len(paths) == 1 else f"{len(paths)} files")
