"""Every kernel kind on the GPU: the cases of the CPU backend's tests against the float64 reference. Needs the compiler beside the GPU."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
pytest.importorskip("torch_mlir")

from dslc.runtime.drivers.cuda import cuda_driver  # noqa: E402
from dslc.runtime.drivers.device_program import DeviceProgram  # noqa: E402
from tests.backend_cpu.kernels.harness import check  # noqa: E402
from tests.backend_cuda.kernels import test_update  # noqa: E402
from tests.backend_cuda.kernels.emulated import compiled, given, results_of  # noqa: E402
from tests.backend_cuda.kernels.test_kinds import CASES  # noqa: E402

GROUPS = CASES | {"update": test_update.CASES}


@pytest.mark.parametrize("group", GROUPS)
def test_kernels(group: str) -> None:
    """Twice, to the same bits."""
    cases = GROUPS[group]
    executable = compiled(cases, cuda_driver().arch)
    program = DeviceProgram(executable, cuda_driver())
    first, second = ({k: np.array(v) for k, v in program(given(executable, cases)).items()} for _ in range(2))
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), f"{name} differs from run to run"
    results_of(cases, first)
    for case in cases:
        check(case)
