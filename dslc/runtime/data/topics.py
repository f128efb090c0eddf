"""Real English prose that needs no download: the language reference in the standard library's `pydoc_data.topics`."""

from __future__ import annotations

import re
from functools import lru_cache

from ...core.errors import DataError
from .text import Corpus
from .vocabulary import ASCII, folded


@lru_cache(maxsize=1)
def pydoc_topics() -> Corpus:
    """All topics in the order of their names, folded to printable ASCII (96 symbols), without runs of blank lines and trailing blanks.

    The text differs a little between versions of Python. DataError where a distribution left the module out.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python has no pydoc_data.topics", help="some distributions keep it in a package of their own; or use text(FILE, window=...)"
        ) from None
    joined = folded("\n\n".join(topics[name].strip() for name in sorted(topics)))
    tidy = re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", joined, flags=re.MULTILINE))
    return Corpus(tidy + "\n", "pydoc_topics()", ASCII)
