"""The registry of graph ends: light to import, and the one place that names them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import fcos_train.deploy.onnx as package
from fcos_train.deploy.onnx.ends import ENDS, FIXED_SIZE, detection_ends, end_of


def test_the_names_are_known_without_torch():
    code = "import sys; from fcos_train.deploy.onnx.ends import ENDS; print(*ENDS, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == [*ENDS, "False"]


def test_what_differs_between_the_ends():
    ends = [end_of(name) for name in ENDS]
    assert [end.name for end in ends] == list(ENDS) == ["raw", "decoded", "nms", "ascend", "adelaidet", "rdk"]
    assert [end.default_opset for end in ends] == [17, 17, 17, 11, 17, 11]
    assert [end.deform_conv_opset for end in ends] == [19, 19, 19, 0, 19, 19]
    assert [end.name for end in ends if end.fixed_size] == list(FIXED_SIZE)
    assert [end.name for end in ends if end.half_precision] == ["ascend"]
    assert [end.name for end in ends if not end.selects_as_mmdet] == ["ascend"]
    assert [end.name for end in ends if end.in_strides] == ["adelaidet", "rdk"]
    assert detection_ends() == ("nms", "ascend")
    limits = [(end.two_stage_opset, end.max_proposals) for end in map(end_of, detection_ends())]
    assert limits == [(16, None), (11, 500)]


def test_ends_are_not_told_apart_by_name_elsewhere():
    lines = [
        (path.name, line)
        for path in Path(package.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if '"ascend"' in line
    ]
    assert [name for name, _ in lines] == ["__init__.py"] * 2
