"""A benchmark of the simulated device is refused: it gives counts, not speed."""

import pytest

from tests.npu_sim.conftest import REAL
from tests.support.commands import ROOT, refused


@pytest.mark.skipif(REAL, reason="this device has a speed")
def test_the_benchmark_refuses_and_writes_nothing(npu, tmp_path):
    done = npu.python(ROOT / "benchmarks" / "train_step.py", "--device", "npu", "--out", tmp_path)
    assert "Simulated NPU counts, its times mean nothing" in refused(done)
    assert not list(tmp_path.iterdir())
