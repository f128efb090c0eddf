"""Every elementwise op, on every type that it takes, and every cast, against numpy."""

import numpy as np
import pytest

from dslc.core import dtypes
from dslc.ir.op import TABLE
from dslc.ir.ops import Cast, Compare, Select
from dslc.ir.ops.elementwise import Binary, Elementwise

from .harness import Case, cached, check, sample

TYPES = (dtypes.FLOAT32, dtypes.FLOAT64, dtypes.BFLOAT16, dtypes.FLOAT16, dtypes.INT32, dtypes.INT64, dtypes.INT8, dtypes.UINT8, dtypes.BOOL)
DOMAINS = {"log": (0.01, 9), "log1p": (-0.9, 9), "sqrt": (0, 9), "rsqrt": (0.1, 9), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-0.95, 0.95),
           "acosh": (1.01, 9), "pow": (0.1, 4)}  # fmt: skip
SECOND = {"div": (0.5, 3), "mod": (0.5, 3), "floordiv": (0.5, 3), "pow": (-3, 3)}
BITS = ("and", "or", "xor", "not", "shift_left", "shift_right")
OPS = {name: cls for name, cls in TABLE.items() if issubclass(cls, Elementwise) and name not in ("cast", "select", "compare")}
SIZE = 37  # two vectors and a rest


def takes(name, cls, dtype):
    if name in BITS and dtype.is_float:
        return False
    return {"float": dtype.is_float, "number": not dtype.is_bool, "bool": dtype.is_bool, "any": True}[cls.accepts]


def operands(name, cls, dtype):
    rng = np.random.default_rng(len(name))
    if not dtype.is_float:
        arrays = [sample(dtype, (SIZE,), rng) for _ in range(2)]
        if name.startswith("shift"):
            arrays[1] = np.abs(arrays[1])
    else:
        ranges = (DOMAINS.get(name, (-4, 4)), SECOND.get(name, (-4, 4)))
        arrays = [rng.uniform(*r, SIZE).astype(np.float32).astype(dtype.numpy) for r in ranges]
    return arrays[: 2 if issubclass(cls, Binary) else 1]


def all_cases():
    found = [
        Case(f"{name}.{t}", "map", operands(name, cls, t), cls.of, 1e-10 if t == dtypes.FLOAT64 else 2e-6)
        for name, cls in OPS.items()
        for t in TYPES
        if takes(name, cls, t)
    ]
    rng = np.random.default_rng(1)
    for source in dtypes.ALL:
        for target in dtypes.ALL:
            x = sample(source, (SIZE,), rng)
            if target.kind == "uint":  # what a negative float becomes is left open
                x = np.abs(x.astype(np.float32)).astype(source.numpy)
            found.append(Case(f"cast.{source}.{target}", "map", [x], lambda x, target=target: Cast.of(x, dtype=target)))
    for predicate in ("lt", "le", "gt", "ge", "eq", "ne"):
        for t in (dtypes.FLOAT32, dtypes.INT32, dtypes.UINT8, dtypes.BOOL):
            pair = [sample(t, (SIZE,), rng) for _ in range(2)]
            found.append(Case(f"compare.{predicate}.{t}", "map", pair, lambda a, b, p=predicate: Compare.of(a, b, predicate=p)))
    odd = [np.array(v, np.float32) for v in ([1, np.nan, np.inf, -np.inf, -0.0, np.nan], [np.nan, 1, np.nan, np.inf, 0.0, np.nan])]
    for name in ("min", "max", "add", "div", "mod", "sign", "abs", "exp", "tanh", "sigmoid", "round"):
        cls = OPS[name]
        found.append(Case(f"{name}.odd", "map", odd[: 2 if issubclass(cls, Binary) else 1], cls.of))
    by_zero = [np.array([5, -5, 7, -7, -(2**31), 3], np.int32), np.array([0, 0, -2, 2, -1, -1], np.int32)]
    for name in ("floordiv", "mod"):
        found.append(Case(f"{name}.zero", "map", by_zero, OPS[name].of))
    found.append(Case("select", "map", [sample(t, (SIZE,), rng) for t in (dtypes.BOOL, dtypes.INT8, dtypes.INT8)], Select.of))
    return found


cases = cached(all_cases)


@pytest.mark.parametrize("op", [*OPS, "cast", "compare", "select"])
def test_op(op):
    mine = [case for name, case in cases().items() if name.split(".")[0] == op]
    assert mine
    for case in mine:
        check(case)
