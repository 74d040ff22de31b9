"""The Triton GroupNorm (+ ReLU) against float64; on a machine without a GPU its kernels run in Triton's interpreter."""

import json
import sys

import pytest

from tests.support.commands import ROOT, _finish, ok, run_script

pytest.importorskip("triton", reason="Triton is not installed (pip install '.[dev]' brings it on Linux)")

# Upper limit of the rounding error of the result in this dtype; Triton's interpreter truncates to bf16 instead.
ROUNDING = {"float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-11}


@pytest.fixture(scope="module")
def found():
    script = ROOT / "tests" / "support" / "triton_group_norm.py"
    return json.loads(ok(_finish([sys.executable, str(script)], None, 300, {})).stdout.splitlines()[-1])


def test_as_exact_as_the_number_type_allows(found):
    """Result and input gradient are rounded to the type of the map; the gradients of weight and bias are fp32 sums."""
    assert len(found["errors"]) == 19
    for case, ((result, by_input, by_weight, by_bias), dense) in found["errors"].items():
        rounding = next(bound for name, bound in ROUNDING.items() if f" {name}," in case)
        assert result < rounding and by_input < rounding, case
        assert by_weight < 1e-5 and by_bias < 1e-5, case
        assert dense, f"{case}: another type or memory order came back"


def test_a_conv_module_keeps_its_names_and_fuses_its_relu(found):
    module = found["module"]
    assert module["keys"] and module["relu"] == [True, False]
    assert max(module["activate=True"]) < 1e-5 and max(module["activate=False"]) < 1e-5


def test_nan_is_not_hidden_by_the_relu(found):
    assert found["nan"] == [9, 9, 9, 9, 0, 0, 0, 0]


def test_the_compiler_takes_the_kernels_and_they_move_16_bytes_at_a_time(tmp_path):
    """A thread holds 32 of the 8,192 bf16 values of a tile: four accesses per map that a kernel reads or writes."""
    script = ROOT / "tests" / "support" / "triton_compile.py"
    done = ok(run_script(script, TRITON_CACHE_DIR=str(tmp_path)))
    found = json.loads(done.stdout.splitlines()[-1])
    maps = {"_moments": (1, 0), "_normalise": (1, 1), "_gradient_sums": (2, 0), "_input_gradient": (2, 1)}
    assert found.keys() == maps.keys()
    for kernel, (read, written) in maps.items():
        assert found[kernel]["ld"] >= 4 * read and found[kernel]["st"] >= 4 * written, (kernel, found[kernel])
