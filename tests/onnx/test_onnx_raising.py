"""What torch's exporters take apart is found again: attention is one streaming kernel, a normalization one reduction, a gelu no pass of its own."""

import pytest
from torch_models import exported

import dslc
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.targets import target_of

# (attentions, reductions): one reduction for each normalization, and one for the mean over places of ConvNeXt
KERNELS = {"gpt2": (1, 3), "bert": (1, 3), "llama": (1, 1), "t5": (3, 4), "vit": (1, 2), "convnext": (0, 4)}
CASES = [*((name, "script") for name in KERNELS), *((name, "graph") for name in ("gpt2", "bert", "llama"))]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_kernels(name, exporter):
    lowered = lower(dslc.load(exported(name, exporter)[2]), "run", target_of("cpu"))
    with lowered.context:
        kernels = [op for op in program_of(lowered.module).entry_block.operations if isinstance(op, ops.Kernel)]
        kinds = [k.kind for k in kernels]
        assert (kinds.count("attention"), kinds.count("reduce")) == KERNELS[name]
        maps = [op for k in kernels if k.kind == "map" for op in k.regions[0].blocks[0].operations]
        assert not any(isinstance(op, (ops.Erf, ops.Tanh, ops.Exp, ops.Rsqrt)) for op in maps)
