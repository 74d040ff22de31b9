"""What torch_npu itself registers and refuses, and whole training steps on it against the CPU."""

import json

import pytest

from tests.support.commands import ok

pytestmark = pytest.mark.front_end


def test_what_torch_npu_registers_and_refuses(npu, request):
    checks = request.path.parent / "inside" / "check_front_end.py"
    done = ok(npu.python("-m", "pytest", "-q", "-p", "no:cacheprovider", checks))
    assert " passed" in done.stdout and "failed" not in done.stdout


@pytest.mark.parametrize("head", ["FixedShapeFCOSHead", "FixedShapeFSAFHead"])
def test_steps_are_those_of_the_cpu(npu, request, head):
    """No operator runs on the host, no wait for the device after the first step, equal losses and weights."""
    script = request.path.parent / "inside" / "same_steps.py"
    result = json.loads(ok(npu.python(script, head, 3)).stdout.splitlines()[-1])
    assert result["devices"] == ["cpu", "npu"] and len(result["npu"]) == 3
    for got, expected in zip(result["npu"], result["cpu"]):
        assert got.keys() == expected.keys() and got["loss"] > 0
        assert got == pytest.approx(expected, rel=1e-5)
    assert result["weights"] < 1e-5
