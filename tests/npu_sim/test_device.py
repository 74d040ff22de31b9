"""Runs the checks of the simulated device in a separate process, which may register it."""

import pytest

from tests.support.commands import ok


def test_the_simulated_device(npu, request):
    if "NPU_SIM_LIBRARY" not in npu.env:
        pytest.skip("checks of the simulated device itself")
    checks = request.path.parent / "inside" / "check_device.py"
    done = ok(npu.python("-m", "pytest", "-q", "-p", "no:cacheprovider", checks))
    assert " passed" in done.stdout and "failed" not in done.stdout
