"""Whole-model gradients, after differentiate alone and after the passes around it, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dslc.core import dtypes
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import program_of
from dslc.ir.types import TensorType, type_of
from dslc.passes.differentiate import Differentiate
from dslc.passes.hoist import Hoist
from dslc.passes.simplify import Simplify

from .graphs import add, against_torch, bias, gradients, matmul, mean, program, relu, total

PIPELINES = {"alone": (Differentiate(),), "with simplify and hoist": (Simplify(), Hoist(), Differentiate(), Simplify())}


@pytest.fixture(params=PIPELINES.values(), ids=list(PIPELINES))
def passes(request):
    return request.param


def draw(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal(s) for k, s in shapes.items()}


def test_mlp_with_gradients_to_the_inputs(passes):
    def build(x, y, w1, b1, w2, b2):
        h = relu(bias(matmul(x, w1), b1))
        e = ops.Sub.of(bias(matmul(h, w2), b2), y)
        return mean(ops.Mul.of(e, e))

    def expected(x, y, w1, b1, w2, b2):
        return ((torch.relu(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean()

    arrays = draw(x=(5, 4), y=(5, 2), w1=(4, 7), b1=(7,), w2=(7, 2), b2=(2,))
    against_torch(arrays, build, ["x", "w1", "b1", "w2", "b2"], expected, passes)


def test_causal_attention(passes):
    def build(x, wq, wk, wv):
        q, k, v = (matmul(x, w) for w in (wq, wk, wv))  # [b, t, d]
        scores = ops.contract(q, k, [0, 1, 2], [0, 3, 2], [0, 1, 3])
        shape = type_of(scores).shape
        later = ops.Compare.of(*(ops.Iota.of(axis=a, shape=shape, dtype=dtypes.INT32) for a in (2, 1)), predicate="gt")
        p = ops.Softmax.of(ops.Select.of(later, ops.full_like(scores, -np.inf), scores), axis=2)
        y = ops.contract(p, v, [0, 1, 3], [0, 3, 2], [0, 1, 2])
        return mean(ops.Mul.of(y, ops.Sin.of(y)))

    def expected(x, wq, wk, wv):
        s = (x @ wq) @ (x @ wk).transpose(1, 2)
        y = s.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1) @ (x @ wv)
        return (y * y.sin()).mean()

    against_torch(draw(x=(2, 5, 3), wq=(3, 4), wk=(3, 4), wv=(3, 4)), build, ["x", "wq", "wk", "wv"], expected, passes)


def lstm(x, w, u, b, h, c):
    """The mean square of all outputs of an LSTM over x[t, n, i] from the states h, c."""
    units = type_of(h).shape[1]
    trip = type_of(x).shape[0]
    scan = ops.Scan.build([w, u, b], [h, c], [x], [type_of(h)], trip)
    block = scan.regions[0].blocks[0]
    _, w, u, b, h, c, x = block.arguments
    with ir.InsertionPoint(block):
        z = bias(add(matmul(x, w), matmul(h, u)), b)
        i, f, g, o = (ops.slice_axis(z, 1, k * units, units) for k in range(4))
        c = add(ops.Mul.of(ops.Sigmoid.of(f), c), ops.Mul.of(ops.Sigmoid.of(i), ops.Tanh.of(g)))
        h = ops.Mul.of(ops.Sigmoid.of(o), ops.Tanh.of(c))
        ops.Yield.of(h, c, h)
    return add(mean(ops.Mul.of(scan.results[2], scan.results[2])), total(scan.results[1]))


def torch_lstm(x, w, u, b, h, c):
    out = []
    for x_t in x:
        i, f, g, o = (x_t @ w + h @ u + b).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return (torch.stack(out) ** 2).mean() + c.sum()


LSTM = {"x": (6, 2, 3), "w": (3, 16), "u": (4, 16), "b": (16,), "h": (2, 4), "c": (2, 4)}


def test_lstm(passes):
    against_torch(draw(**LSTM), lstm, list(LSTM), torch_lstm, passes)


def test_gradients_of_recurrent_weights_are_one_product():
    """No turn of the backward scan sums a weight's gradient: it emits the factors, and one contraction follows."""
    with context(), ir.Location.unknown():
        module = program(draw(**LSTM), lstm, ["u"], (Differentiate(), Simplify()))
        block = program_of(module).entry_block
        backward = [op for op in block.operations if isinstance(op, ops.Scan) and op.backward]
        assert len(backward) == 1
        carried = list(backward[0].results)[: backward[0].carries]
        assert (4, 16) not in [type_of(v).shape for v in carried]
        assert any(isinstance(op, ops.Contract) and type_of(op.results[0]).shape == (4, 16) for op in block.operations)


WIDE = {"x": (5, 2, 3), "w": (3, 256), "u": (64, 256), "b": (256,), "h": (2, 64), "c": (2, 64)}


def chain(w, v, s):
    """s = sin(s @ w @ v) three times: the first product is a factor of a gradient too."""
    scan = ops.Scan.build([w, v], [s], [], [], 3)
    _, w, v, s = scan.regions[0].blocks[0].arguments
    with ir.InsertionPoint(scan.regions[0].blocks[0]):
        ops.Yield.of(ops.Sin.of(matmul(matmul(s, w), v)))
    return total(scan.results[0])


def torch_chain(w, v, s):
    for _ in range(3):
        s = (s @ w @ v).sin()
    return s.sum()


def linear(w, s):
    """s = s @ w, four times: no gradient reads the product."""
    scan = ops.Scan.build([w], [s], [], [], 4)
    _, w, s = scan.regions[0].blocks[0].arguments
    with ir.InsertionPoint(scan.regions[0].blocks[0]):
        ops.Yield.of(matmul(s, w))
    return total(scan.results[0])


KEPT = {  # the model, its torch twin, shapes, contractions of a backward turn, what the forward scan emits
    "lstm": (lstm, torch_lstm, WIDE, 1, 4),  # the gradient of the state; states, cells and sums of gates are kept, beside the output
    "chain": (chain, torch_chain, {"w": (64, 64), "v": (64, 64), "s": (2, 64)}, 2, 3),
    "linear": (linear, lambda w, s: (s @ w @ w @ w @ w).sum(), {"w": (64, 64), "s": (2, 64)}, 1, 1),
}


@pytest.mark.parametrize("name", KEPT)
def test_long_sums_of_a_turn_are_kept(name, passes):
    build, expected, shapes, contractions, emits = KEPT[name]
    values = {k: v / v.shape[0] for k, v in draw(**shapes).items()}
    against_torch(values, build, list(shapes), expected, passes)
    with context(), ir.Location.unknown():
        module = program(values, build, list(shapes), PIPELINES["with simplify and hoist"])
        scans = [op for op in program_of(module).entry_block.operations if isinstance(op, ops.Scan)]
        backward = next(op for op in scans if op.backward)
        assert sum(isinstance(op, ops.Contract) for op in backward.regions[0].blocks[0].operations) == contractions
        assert max(len(op.results) - op.carries for op in scans if not op.backward) == emits


def test_scan_backwards_over_a_slice_used_twice_and_the_turn(passes):
    def build(x, w, s):
        scan = ops.Scan.build([w], [s], [x], [type_of(s)], 4, backward=True)
        block = scan.regions[0].blocks[0]
        t, w, s, x_t = block.arguments
        with ir.InsertionPoint(block):
            turn = ops.spread(ops.cast(t, dtypes.FLOAT64), type_of(s))
            new = add(ops.Mul.of(ops.Sin.of(s), w), ops.Mul.of(x_t, ops.Mul.of(x_t, turn)))
            ops.Yield.of(new, ops.Mul.of(new, s))
        return add(total(scan.results[0]), total(ops.Mul.of(scan.results[1], scan.results[1])))

    def expected(x, w, s):
        loss = 0
        for t in reversed(range(4)):
            new = s.sin() * w + x[t] * x[t] * t
            loss, s = loss + ((new * s) ** 2).sum(), new
        return loss + s.sum()

    against_torch(draw(x=(4, 3), w=(3,), s=(3,)), build, ["x", "w", "s"], expected, passes)


def test_scan_in_a_scan(passes):
    def build(x, w, s):
        outer = ops.Scan.build([w], [s], [x], [], 3)
        block = outer.regions[0].blocks[0]
        _, w1, s1, row = block.arguments
        with ir.InsertionPoint(block):
            inner = ops.Scan.build([w1], [s1], [row], [type_of(s1)], 2)
            body = inner.regions[0].blocks[0]
            _, w2, s2, x_t = body.arguments
            with ir.InsertionPoint(body):
                new = ops.Tanh.of(add(matmul(s2, w2), x_t))
                ops.Yield.of(new, new)
            ops.Yield.of(ops.Add.of(inner.results[0], ops.Reduce.of(inner.results[1], kind="sum", axes=[0])))
        return total(ops.Mul.of(outer.results[0], outer.results[0]))

    def expected(x, w, s):
        for row in x:
            made, h = [], s
            for x_t in row:
                h = torch.tanh(h @ w + x_t)
                made.append(h)
            s = h + sum(made)
        return (s * s).sum()

    against_torch(draw(x=(3, 2, 4), w=(4, 4), s=(4,)), build, ["x", "w", "s"], expected, passes)


def test_convolution_with_max_pooling(passes):
    def build(x, w, v):
        four = ops.reshape(x, (2, 1, 3, 8, 8))
        y = ops.Conv.of(four, w, stride=(1, 1), dilation=(1, 1), spacing=(1, 1), low=(1, 1), size=(8, 8), dtype=dtypes.FLOAT64)
        y = relu(ops.reshape(y, (2, 5, 8, 8)))
        rows = [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 2, 0, 1, 0], [0, 0, 0, 2, 0, 1]]
        y = ops.Reduce.of(ops.view(y, rows, [0] * 4, [2, 5, 4, 4, 2, 2]), kind="max", axes=[4, 5])
        return mean(ops.Sin.of(matmul(ops.reshape(y, (2, 80)), v)))

    def expected(x, w, v):
        y = F.max_pool2d(torch.relu(F.conv2d(x, w[0], padding=1)), 2)
        return (y.flatten(1) @ v).sin().mean()

    against_torch(draw(x=(2, 3, 8, 8), w=(1, 5, 3, 3, 3), v=(80, 3)), build, ["x", "w", "v"], expected, passes)


def test_strided_dilated_convolution_in_groups(passes):
    def build(x, w):
        y = ops.Conv.of(ops.reshape(x, (2, 2, 2, 9)), w, stride=(2,), dilation=(2,), spacing=(1,), low=(2,), size=(5,), dtype=dtypes.FLOAT64)
        return mean(ops.Mul.of(y, ops.Sin.of(y)))

    def expected(x, w):
        y = F.conv1d(x, w.flatten(0, 1), stride=2, dilation=2, padding=2, groups=2)
        return (y * y.sin()).mean()

    against_torch(draw(x=(2, 4, 9), w=(2, 3, 2, 3)), build, ["x", "w"], expected, passes)


def test_embedding_and_cross_entropy(passes):
    def build(ids, labels, table, w):
        logits = matmul(ops.Gather.of(table, ids, batch=0, outside=0.0), w)
        own = ops.Gather.of(ops.LogSoftmax.of(logits, axis=1), labels, batch=1, outside=0.0)
        return ops.Neg.of(mean(own))

    arrays = {"ids": np.array([3, 0, 3, 1]), "labels": np.array([0, 5, 2, 2]), **draw(table=(4, 3), w=(3, 6))}
    against_torch(arrays, build, ["table", "w"], lambda ids, labels, table, w: F.cross_entropy(table[ids] @ w, labels), passes)


def test_batch_statistics(passes):
    def build(x, scale, shift):
        n, t = type_of(x).shape[0], type_of(x)
        count = ops.full(TensorType(t.dtype, (t.shape[1],)), n)
        centre = ops.Div.of(ops.Reduce.of(x, kind="sum", axes=[0]), count)
        d = ops.Sub.of(x, ops.broadcast(centre, t.shape, [1]))
        var = ops.Div.of(ops.Reduce.of(ops.Mul.of(d, d), kind="sum", axes=[0]), count)
        r = ops.broadcast(ops.Rsqrt.of(ops.Add.of(var, ops.full_like(var, 1e-5))), t.shape, [1])
        y = bias(ops.Mul.of(ops.Mul.of(d, r), ops.broadcast(scale, t.shape, [1])), shift)
        return mean(ops.Exp.of(y))

    def expected(x, scale, shift):
        return F.batch_norm(x, None, None, scale, shift, training=True).exp().mean()

    against_torch(draw(x=(6, 3), scale=(3,), shift=(3,)), build, ["x", "scale", "shift"], expected, passes)


def test_routing_by_sort_gather_scatter(passes):
    """Each token goes to the expert of its greatest gate: tokens are sorted by gate, worked on in that order and scattered back."""

    def build(x, gates):
        _, order = ops.sort(gates, 0, descending=True)
        kept = ops.slice_axis(order, 0, 0, 4)
        taken = ops.Gather.of(x, kept, batch=0, outside=0.0)
        weight = ops.Sigmoid.of(ops.Gather.of(gates, kept, batch=0, outside=0.0))
        worked = ops.Mul.of(ops.Tanh.of(taken), ops.broadcast(weight, type_of(taken).shape, [0]))
        back = ops.Scatter.of(worked, kept, kind="sum", batch=0, sizes=(6,))
        ranked, _ = ops.sort(gates, 0)
        return add(mean(ops.Mul.of(back, x)), mean(ops.Mul.of(ranked, ops.constant(np.arange(6.0), dtypes.FLOAT64))))

    def expected(x, gates):
        kept = gates.argsort(descending=True)[:4]
        worked = x[kept].tanh() * gates[kept].sigmoid()[:, None]
        back = torch.zeros_like(x).index_add(0, kept, worked)
        return (back * x).mean() + (gates.sort().values * torch.arange(6.0)).mean()

    against_torch(draw(x=(6, 3), gates=(6,)), build, ["x", "gates"], expected, passes)


@pytest.mark.parametrize("turn", [True, False])
def test_cond(turn, passes):
    def build(flag, x, w):
        cond = ops.Cond.build(flag, [x, w], [type_of(x)])
        for region, work in zip(cond.regions, (lambda a, b: ops.Mul.of(a, ops.Exp.of(b)), lambda a, b: ops.Sin.of(a))):
            with ir.InsertionPoint(region.blocks[0]):
                ops.Yield.of(work(*region.blocks[0].arguments))
        return total(ops.Mul.of(cond.results[0], x))

    def expected(flag, x, w):
        return ((x * w.exp() if flag else x.sin() + 0 * w) * x).sum()

    against_torch({"flag": np.array(turn), **draw(x=(3,), w=(3,))}, build, ["x", "w"], expected, passes)


def test_gradient_of_a_gradient_through_a_scan(passes):
    """A penalty on the gradient, as of WGAN-GP."""

    def build(x, w, s):
        scan = ops.Scan.build([w], [s], [x], [], 3)
        block = scan.regions[0].blocks[0]
        _, w1, s1, x_t = block.arguments
        with ir.InsertionPoint(block):
            ops.Yield.of(ops.Tanh.of(add(matmul(s1, w1), x_t)))
        first = ops.Grad.of(total(ops.Mul.of(scan.results[0], scan.results[0])), x)
        return total(ops.Mul.of(first, first))

    def expected(x, w, s):
        for x_t in x:
            s = torch.tanh(s @ w + x_t)
        first = torch.autograd.grad((s * s).sum(), x, create_graph=True)[0]
        return (first * first).sum()

    against_torch(draw(x=(3, 4), w=(4, 4), s=(4,)), build, ["x", "w", "s"], expected, passes)


def test_nothing_flows_through_stop_gradient_integers_and_unused_values():
    def build(x, w, unused):
        whole = ops.cast(ops.cast(x, dtypes.INT32), dtypes.FLOAT64)
        return total(ops.Add.of(ops.Mul.of(ops.StopGradient.of(x), w), whole))

    found = gradients(draw(x=(3,), w=(3,), unused=(2,)), build, ["x", "w", "unused"])
    np.testing.assert_array_equal(found["d.x"], 0)
    np.testing.assert_array_equal(found["d.unused"], 0)
    np.testing.assert_array_equal(found["d.w"], draw(x=(3,))["x"])


def test_gradient_ops_carry_the_place_of_their_forward_op():
    from dslc.core.errors import Span
    from dslc.ir.op import context
    from dslc.ir.program import program_of
    from dslc.ir.types import location_of, spans_of

    from .graphs import program

    def build(x):
        with location_of(Span("m.dsl", 7, 3, 7, 9)):
            y = ops.Exp.of(x)
        with location_of(Span("m.dsl", 8, 3, 8, 9)):
            return total(y)

    with context(), ir.Location.unknown():
        module = program(draw(x=(3,)), build, ["x"])
        products = [op for op in program_of(module).entry_block.operations if isinstance(op, ops.Mul)]
        assert [s.line for op in products for s in spans_of(op.location)] == [7]
