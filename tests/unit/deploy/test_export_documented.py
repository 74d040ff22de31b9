"""The documented sizes with the full networks and random weights: takes minutes, so it needs ``-m slow``."""

import resource
import time

import pytest
from mmengine.config import Config

from tests.support.small_detectors import SHIPPED, shipped, write_checkpoint

pytest.importorskip("onnxruntime")

from fcos_train.deploy.onnx.export import ExportOptions, export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MEMORY = 7e6  # kB
MODELS = {
    "fcos-gn": (SHIPPED["fcos-gn"], (800, 1216)),
    "fsaf": (SHIPPED["fsaf"], (800, 1216)),
    "cascade": ("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", (1216, 1216)),
    "cascade-dcn": ("dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco.py", (1216, 1216)),
}
# model, end, opset
ROWS = [
    *((name, end, 17) for name in ("fcos-gn", "fsaf") for end in ("raw", "decoded", "nms")),
    ("cascade", "nms", 17),
    ("cascade-dcn", "nms", 19),
    *((name, "ascend", 11) for name in MODELS),
]


@pytest.mark.parametrize("name, end, opset", ROWS)
def test_documented_size(name, end, opset, tmp_path):
    path, shape = MODELS[name]
    config = Config.fromfile(str(shipped(path)))
    config.model.backbone.init_cfg = None
    checkpoint = write_checkpoint(tmp_path / "model.pth", config)
    start = time.monotonic()
    result = export(ExportOptions(str(checkpoint), end=end, output=str(tmp_path / "model.onnx"), shape=shape))
    minutes, megabytes = (time.monotonic() - start) / 60, result.path.stat().st_size / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the largest since the process began
    print(f"{minutes:.1f} minutes, {megabytes:.1f} MB, {memory / 1e6:.1f} GB of memory")
    assert result.opset == opset
    assert all(found.fault is None and found.count > 0 for found in result.differences)
    assert memory < MEMORY
