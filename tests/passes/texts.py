"""A pass on text: a file holds a module before and after it, apart by a line `// -----`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dslc.ir import reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import arguments_of, program_of
from dslc.ir.verify import verify


def files(folder: str) -> list[Path]:
    return sorted((Path(__file__).parent / folder).glob("*.mlir"))


def check(file: Path, one: Any) -> None:
    """The pass makes the second text of the first, and both mean the same."""
    before, after = file.read_text().split("// -----\n")
    with context():
        module = ir.Module.parse(before)
        verify(module)
        rng = np.random.default_rng(0)
        given = {s.name: rng.uniform(0.5, 2, s.type.shape) for s in arguments_of(program_of(module))}
        meant = reference.run(module, given)
        one.run(module)
        verify(module)
        places = "loc(" in after  # a file that writes them has them compared
        texts = [m.operation.get_asm(enable_debug_info=places) for m in (module, ir.Module.parse(after))]
        assert texts[0] == texts[1]
        for name, value in reference.run(module, given).items():
            np.testing.assert_allclose(value, meant[name], rtol=1e-12, err_msg=name)
