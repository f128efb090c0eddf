"""`dslc generate`: text, or tokens, from a trained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..compiled import decoder_of
from ..core.errors import DataError
from ..runfolder import is_run
from ..runfolder import load as load_run
from ..runtime.data.vocabulary import from_json
from ..runtime.generation import generate_text
from ..runtime.sampling import Sampling
from ..training_run import batch_dim

LENGTH = 400  # tokens, where nothing says how many


def generate(
    run: str | Path,
    *,
    prompt: str = "",
    length: int | None = None,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    seed: int | None = None,
    method: str | None = None,
    listener: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
    **options: Any,
) -> str:
    """The text that follows the prompt. What is not given (None) is as the generate block says: sampling with its options, length, seed."""
    if length is not None and length < 1:
        raise DataError(f"--length {length} must be at least 1")
    if not is_run(run):
        raise DataError(f"{run} is no run folder", help="train first: dslc train SPEC, then dslc generate runs/NAME")
    loaded = load_run(run, overrides, best=True)
    rows = batch_dim(loaded.model)
    if rows is not None:  # one text needs one row
        loaded = load_run(run, {**(overrides or {}), rows: 1}, best=True)
    stored = loaded.progress.extra.get("vocabulary")
    if stored is None:
        raise DataError("the run keeps no vocabulary: it was not trained on text")
    vocabulary = from_json(stored)
    block = loaded.model.checked.generate
    chosen: dict[str, Any] = dict(block.options) if block and method in (None, block.method) else {}
    chosen |= {k: v for k, v in options.items() if v is not None}
    how = Sampling(method=method or (block.method if block else "sample"), **chosen)
    decoder = decoder_of(loaded.model, target or loaded.target, note)
    length, seed = length or (block and block.length) or LENGTH, (block.seed if block else 0) if seed is None else seed
    stop = [block.stop] if block and block.stop is not None else []
    return generate_text(decoder, vocabulary, prompt, length, how, seed=seed, stop=stop, listener=listener)
