"""Random small equations mean on the reference target what loops over their points say."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import dslc

from .evaluator import evaluate

HEAD = "model M:\n    dims a=2, b=3, c=4\n    input x[a, b], y[b], z[a, c, b], w[c]: int32, ids[a, c]: int32, m[b]: bool, r[]\n"
TENSORS = {"x": ("a", "b"), "y": ("b",), "z": ("a", "c", "b"), "w": ("c",), "ids": ("a", "c"), "m": ("b",)}
SIZES = {"a": 2, "b": 3, "c": 4}
SHAPES = {"x": (2, 3), "y": (3,), "z": (2, 4, 3), "w": (4,), "ids": (2, 4), "m": (3,), "r": ()}
FLOATS = ("x", "y", "z")


@st.composite
def entries(draw, scope, size, depth):
    """One place in a read, over the indices of `scope`."""
    if not scope:
        return str(draw(st.integers(-1, size)))
    i, j = draw(st.sampled_from(sorted(scope))), draw(st.sampled_from(sorted(scope)))
    forms = [i, i, f"{i} - 1", f"{i} + 1", f"2*{i}", f"{i} + {j}", f"{i} + {j} - 1", f"2*{i} + {j} - 1", f"{i} // 2", f"{i} % 2", f"{size - 1} - {i}",
             f"({i} + 1) // 2", f"({i} + {j}) % {size}", f"{i} * 2 + 1", f"({i} - 1) % {size}", str(draw(st.integers(0, size - 1))),
             f"2*({i} // 2) + 1 - {i} % 2", f"size({i}) - 1 - {i}", f"{i} * {j}"]  # fmt: skip
    if depth:
        forms += [f"w[{i}]", f"w[{i}] + {j}", f"ids[{i}, {j}]"]
    return draw(st.sampled_from(forms))


@st.composite
def reads(draw, scope, depth, names=tuple(TENSORS)):
    name = draw(st.sampled_from(names))
    places = [draw(entries(scope, SIZES[d], depth)) for d in TENSORS[name]]
    outside = draw(st.sampled_from(["", "", "", ", outside=1.5"])) if name in FLOATS else ""
    return f"{name}[{', '.join(places)}{outside}]"


@st.composite
def conditions(draw, scope, depth):
    kind = draw(st.integers(0, 6))
    i = draw(st.sampled_from(sorted(scope))) if scope else "1"
    j = draw(st.sampled_from(sorted(scope))) if scope else "2"
    match kind:
        case 0:
            return f"{i} <= {j}"
        case 1:
            return f"0 <= {i} - 1 < 2"
        case 2:
            return f"{draw(values(scope, depth))} > {draw(values(scope, depth))}"
        case 3:
            return f"({draw(conditions(scope, 0))} and not {draw(conditions(scope, 0))})"
        case 4:
            return f"({draw(conditions(scope, 0))} or {draw(conditions(scope, 0))})"
        case 5:
            return draw(reads(scope, 0, ("m",)))
    return draw(st.sampled_from([f"{i} == {j}", f"{i} != 1", f"({i} + {j}) % 2 == 0", f"w[{i}] == {j}", f"ids[{i}, {j}] == {i}", "true"]))


@st.composite
def values(draw, scope, depth):
    """An expression over the indices of `scope`."""
    if depth <= 0:
        kind = draw(st.integers(0, 5))
        if kind == 0 and scope:
            return draw(st.sampled_from(sorted(scope)))
        if kind == 1:
            return draw(st.sampled_from(["2", "0.5", "r", "c", "1e-1", "-3"]))
        return draw(reads(scope, 0))
    inner = lambda: draw(values(scope, depth - 1))  # noqa: E731
    match draw(st.integers(0, 12)):
        case 0 | 1:
            return f"({inner()} {draw(st.sampled_from('+-*'))} {inner()})"
        case 2:
            return f"{inner()} {draw(st.sampled_from(['/', '//', '%']))} {draw(st.sampled_from(['2', '3', '-2', '(2 + y[0] ** 2)']))}"
        case 3:
            f = draw(st.sampled_from(["tanh", "abs", "relu", "sigmoid", "sin", "-", "gelu", "silu", "leaky_relu", "sign"]))
            return f"{f}({inner()})"
        case 4:
            return f"where({draw(conditions(scope, depth - 1))}, {inner()}, {inner()})"
        case 5:
            return f"{draw(st.sampled_from(['min', 'max']))}({inner()}, {inner()})"
        case 6 | 7 | 8:
            return draw(reductions(scope, depth))
        case 9:
            if not scope:
                return inner()
            f = draw(st.sampled_from(["softmax", "log_softmax", "cumsum", "cumprod", "sort", "argsort"]))
            return f"{f}[{draw(st.sampled_from(sorted(scope)))}]({inner()})"
        case 10:
            return draw(reads(scope, 1))
        case 11:
            return f"({draw(reads(scope, 1))} * {draw(reads(scope, 1))})"
    return f"clip({inner()}, -1, 1.5)"


@st.composite
def reductions(draw, scope, depth):
    fresh = [n for n in "jklpquv" if n not in scope][: draw(st.integers(1, 2))]
    taken = {*scope, *fresh}
    body = draw(values(taken, depth - 1))
    name = draw(st.sampled_from(["sum", "sum", "sum", "mean", "max", "min", "prod", "any", "all", "argmax", "argmin", "logsumexp"]))
    if name in ("any", "all"):
        body = draw(conditions(taken, depth - 1))
    if name == "sum" and draw(st.booleans()):
        forms = [f"{draw(reads(taken, 1))} * {draw(reads(taken, 1))}", f"{draw(reads(taken, 1))} * {draw(reads(taken, 0))} * {body}"]
        if scope:
            n = sorted(scope)[0]
            forms += [f"where(w[{fresh[0]}] == {n}, {body}, 0)", f"where(ids[{fresh[0]}, {fresh[-1]}] == {n}, {body}, 0)"]
        body = draw(st.sampled_from(forms))
    bounds = [f"{n} < {draw(st.integers(1, 4))}" for n in fresh]
    return f"{name}[{', '.join(bounds)}]({body})"


@st.composite
def equations(draw):
    names = ["i", "n", "t"][: draw(st.integers(0, 3))]
    left = [f"{n} < {draw(st.integers(1, 4))}" for n in names]
    return f"    output o[{', '.join(left)}] = {draw(values(frozenset(names), draw(st.integers(0, 3))))}\n"


def check(text: str, seed: int = 0) -> None:
    """The reference target and the evaluator agree on every output."""
    program = dslc.compile(dslc.load(text), target="reference")
    rng = np.random.default_rng(seed)
    fed = {}
    for port in program.executable.ports:
        if port.role == "input":
            low, high = port.bounds or (0, 5)
            if port.dtype.is_float:
                fed[port.name] = rng.standard_normal(port.shape).astype(np.float32)
            elif port.dtype.is_bool:
                fed[port.name] = rng.random(port.shape) < 0.5
            else:
                fed[port.name] = rng.integers(low, high, port.shape).astype(port.dtype.numpy)
    arrays = {k: fed.get(k, np.zeros(n)) for k, n in SHAPES.items()}
    wanted = evaluate(text, {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()})
    found = program(**fed)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, (text, found[name].shape, value.shape)
        np.testing.assert_allclose(np.asarray(found[name], np.float64), np.asarray(value, np.float64), rtol=1e-5, atol=1e-6, err_msg=text)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(equations(), st.integers(0, 99))
def test_random_equations(equation, seed):
    text = HEAD + equation
    try:
        check(text, seed)
    except dslc.Error as error:
        event(type(error).__name__)
        assume(False)
    except (OverflowError, ZeroDivisionError):
        assume(False)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(equations(), st.integers(0, 99))
def test_random_gradients(equation, seed):
    """grad(...) inside the model against central differences of the evaluator."""
    text = f"{HEAD}{equation.replace('output ', '')}    s = sum(float32(o))\n    output gx = grad(s, x), gy = grad(s, y), gz = grad(s, z)\n"
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items() if name not in ("w", "ids", "m")}
    arrays |= {"w": rng.integers(0, 2, 4).astype(np.int32), "ids": rng.integers(0, 2, (2, 4)).astype(np.int32), "m": rng.random(3) < 0.5}
    try:
        program = dslc.compile(dslc.load(text), target="reference")
        found = program(**arrays)
        wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}
        for name in FLOATS:
            wanted = np.zeros(SHAPES[name])
            for k in np.ndindex(*SHAPES[name]):
                sums = []
                for e in (1e-6, -1e-6):
                    moved = wide[name].copy()
                    moved[k] += e
                    sums.append(float(np.sum(evaluate(HEAD + equation, {**wide, name: moved})["o"])))
                wanted[k] = (sums[0] - sums[1]) / 2e-6
            assume(np.isfinite(wanted).all() and np.abs(wanted).max() < 1e4)
            np.testing.assert_allclose(found[f"g{name}"], wanted, rtol=2e-3, atol=2e-3, err_msg=text)
    except dslc.Error as error:
        event(type(error).__name__)
        assume(False)
    except (OverflowError, ZeroDivisionError):
        assume(False)


CASES = [
    "o[i, ...] = z[i, ...] * 2",  # `...` is the same run everywhere
    "o[..., p] = z[..., p] + y[p] * r",
    "o[...] = x[...] - mean[p, q](x[p, q])",
    "o[i] = sum[j, ...](z[i, j, ...])",
    "o[...] = sum[p](z[p, ...] * x[p, 0])",
    "o[i, k < 3] = x[1 - i, k]",  # mirrored, sliced, padded
    "o[i, k < 6] = x[i, k - 1, outside=-2.5]",
    "o[k < 7] = where(k % 2 == 0, y[k // 2], 0)",
    "o[i, j, k] = z[i, (j + 1) % size(j), k]",  # rolled
    "o[i, u < 2, v < 2, k] = z[i, 2 * u + v, k]",  # an axis taken apart and put together
    "o[i, l < 12] = z[i, l // 3, l % 3]",
    "o[l < 24] = z[l // 12, l // 3 % 4, l % 3]",
    "o[i, l < 3, k] = sum[u < 2](z[i, l + u, k] * y[u])",  # convolutions
    "o[i, l < 2, k] = sum[u < 3](z[i, 2 * l + u - 1, k] * y[u])",
    "o[i, l < 2, v < 3] = sum[u < 3, k](z[i, l + 2 * u - 1, k] * x[0, u] * y[k])",
    "o[i, l < 2, k] = max[u < 2](z[i, 2 * l + u, k])",
    "o[i, l < 2, k] = max[u < 3](z[i, 2 * l + u - 1, k, outside=-inf])",
    "o[i, k] = sum[j](where(j <= i, z[i, j, k], 0))",
    "o[i, j] = softmax[j](where(j <= i, x[i, j], -inf))",  # masked
    "o[i, j] = softmax[j](where(j < i, x[i, j], -inf))",  # a row with nothing in it
    "o[i, j] = x[i, j] / (1 + sum[k](abs(x[i, k])))",
    "o[n < 5] = sum[j](where(w[j] == n, 1.5, 0))",  # scatters
    "o[n < 5, k] = sum[i, j](where(ids[i, j] == n, z[i, j, k], 0))",
    "o[i, n < 5] = sum[j](where(ids[i, j] == n and j > 0, w[j] * 1.0, 0))",
    "o[n < 5] = sum[j](where(2 == w[j] - n, 1, 0))",  # stays dense
    "o[n < 5, q < 5] = sum[i, j](where(ids[i, j] == n and w[j] == q, 1, 0))",
    "o[n < 5, k] = max[i, j](where(ids[i, j] == n, z[i, j, k], -inf))",
    "o[n < 5, k] = max[i, j](where(ids[i, j] == n and w[j] > 1, z[i, j, k], 0.25))",  # a number that takes part
    "o[n < 2, k] = min[i, j](where(ids[i, j] // 8 == n, z[i, j, k], -9.0))",  # unless all are taken
    "o[i, n < 5] = min[j](where(ids[i, j] == n, w[j], 3))",
    "o[i, n < 5, k] = prod[j](where(ids[i, j] == n and w[j] > 1, z[i, j, k], 1))",
    "o[n < 5, k] = mean[i, j](where(ids[i, j] == n, z[i, j, k], 0))",
    "o[n < 5, k] = logsumexp[i, j](where(n == ids[i, j], 9 * z[i, j, k], -inf))",
    "o[i, n < 5] = sum[j](ids[i, j] == n)",
    "o[n < 5, q < 5] = any[i, j](ids[i, j] == n and w[j] == q)",
    "o[n < 5] = max[i, j](where(ids[i, j] == n, 1.5, x[0, 0]))",  # stays dense
    "o[i, l < 4] = sum[u < 3](y[l - u] * x[i, u])",  # taps that go backwards
    "o[i, l < 3, k] = sum[u < 2](z[i, 2 * l - u, k] * x[u, k])",
    "o[i, l < 4, k] = sum[u](where(u <= l, z[i, l - u, k] * z[0, u, k], 0))",  # conditions of products
    "o[i, l < 4, k] = sum[u < 4](where(u < l, z[i, l - u, k] * z[0, u, k], 0))",
    "o[i, l < 4, k] = sum[u < 4](where(0 < l - u < 3, z[i, l - u, k] * z[0, u, k], 0))",
    "o[i, l < 4, k] = sum[u < 3](where(l + u - 1 < 4, z[i, l + u - 1, k] * z[0, u, k], 0))",
    "o[i, l < 4, k] = sum[u < 3](where(l + u - 1 < 3, z[i, l + u - 1, k] * z[0, u, k], 0))",
    "o[i, l < 4, k] = sum[u < 4](where(u >= l and m[k], z[i, u - l, k] * z[0, u, k], 0))",
    "o[i, k] = -2 * sum[j](where(w[j] > 1 and j != i, z[i, j, k] * w[j] / size(j), 0))",
    "o[i, k] = mean[j, l](where(j < l, z[i, j, k] * z[0, l, 0], 0))",
    "o[i, j] = w[ids[i, j]]",  # gathers
    "o[i, j, k] = z[i, ids[i, j], k]",
    "o[j, i] = x[i, w[j] % 3]",
    "o[i, j] = x[ids[i, j], w[j], outside=7]",
    "o[i] = argmax[j, k](z[i, j, k])",
    "o[i] = argmin[k](x[i, k])",
    "o[j] = argsort[j](-w[j])",
    "o[i, j] = sort[j](ids[i, j])",
    "o[i, j, k] = cumsum[j](z[i, j, k]) - cumprod[k](z[i, j, k])",
    "o[i] = any[k](x[i, k] > 1) or all[k](m[k])",
    "o[k] = m[k] + m[k] * 2 - not_m(k)".replace("not_m(k)", "where(not m[k], 1, 0)"),
    "o[j] = (w[j] - 3) // 2 + (w[j] - 3) % 2 * 10",  # rounds down; the divisor's sign
    "o[j] = (w[j] - 3) // -2 + (w[j] - 3) % -2 * 10",
    "o[k] = y[k] // 0.5 + y[k] % -0.3",
    "o[j] = w[j] / 2 + 7 / 2 + 7 // 2",
    "o[j] = w[j] ** 2 + (w[j] + 0.5) ** -1",
    "o[i] = logsumexp[k](x[i, k]) - max[k](x[i, k])",
    "o[i] = sum[j, k](z[i, j, k] * x[i, k]) / size(j)",
    "o[i] = sum[j, k](z[i, j, k] * x[i, k] * w[j] - y[k] * w[j] / 3)",
    "o[i] = sum[k](x[i, k] * (y[k] + 1) * -x[i, k]) + prod[k](y[k])",
    "o[i, q < 3] = sum[k < 0](x[i, k]) + prod[k < 0](x[i, k])",  # empty ranges
    "o[i] = mean[k < 2](x[i, k]) + mean[k < 5](x[i, k])",
    "o[i] = sum[j](sum[k](x[i, k] * y[k]) * w[j])",
    "o[i] = max[k](sum[j](z[i, j, k]) * y[k])",
    "o[i, l < 3] = sum[k](x[i, l] * y[k] * y[l - k])",
    "o[i < 2, n < 2] = x[i, n] * r + size(i)",
    "o[k] = 0 < y[k] <= 1 or y[k] != y[0]",
]


@pytest.mark.parametrize("equation", CASES)
def test_equation(equation):
    names = {"i": "a", "j": "c", "k": "b", "p": "b", "q": "b"}
    left = equation[: equation.index("=")].split("[", 1)[1].rstrip(" ]")
    bounded = ", ".join(f"{n} < {names[n]}" if n in names and "logits" not in n else n for n in left.split(", ")) if "..." not in left else left
    check(f"{HEAD}    output o[{bounded}] = {equation[equation.index('=') + 2 :]}\n")


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_indices_that_32_bits_do_not_hold_are_outside(target):
    model = dslc.load("model M:\n    input ids[4]: int64, x[5]\n    far = ids * 1\n    y[n] = x[far[n]]\n    output y\n")
    ids = np.array([1, 0, (1 << 32) + 1, -(1 << 32)])
    x = np.arange(1, 6, dtype=np.float32)
    assert dslc.compile(model, target=target)(ids=ids, x=x)["y"].tolist() == [2, 1, 0, 0]
