"""The documented sizes with the full networks and random weights: minutes, so only with ``-m slow``."""

import pytest
from mmengine.config import Config

from tests.support.small_detectors import SHIPPED, shipped, write_checkpoint

pytest.importorskip("onnxruntime")

from fcos_train.deploy.onnx.export import ExportOptions, export  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("end", ["raw", "decoded", "nms", "ascend"])
@pytest.mark.parametrize("name", ["fcos-gn", "fsaf"])
def test_800_by_1216(name, end, tmp_path):
    config = Config.fromfile(str(shipped(SHIPPED[name])))
    config.model.backbone.init_cfg = None
    checkpoint = write_checkpoint(tmp_path / f"{name}.pth", config)
    lines = []
    options = ExportOptions(str(checkpoint), end=end, output=str(tmp_path / "model.onnx"), shape=(800, 1216))
    result = export(options, lines.append)
    print("\n".join(lines))
    assert all(found.fault is None and found.count > 0 for found in result.differences)


CASCADE = "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
CASCADE_DCN = "dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco.py"


@pytest.mark.parametrize("config, end, opset", [(CASCADE, "nms", 17), (CASCADE, "ascend", 11), (CASCADE_DCN, "nms", 19), (CASCADE_DCN, "ascend", 11)])
def test_1216_by_1216(config, end, opset, tmp_path):
    config = Config.fromfile(str(shipped(config)))
    config.model.backbone.init_cfg = None
    checkpoint = write_checkpoint(tmp_path / "cascade.pth", config)
    lines = []
    options = ExportOptions(str(checkpoint), end=end, output=str(tmp_path / "model.onnx"), shape=(1216, 1216), opset=opset)
    result = export(options, lines.append)
    print("\n".join(lines))
    assert all(found.fault is None and found.count > 0 for found in result.differences)
