"""Export of heads with BatchNorm per level: folded into convolutions, level by level."""

import onnx
import pytest
import torch

onnxruntime = pytest.importorskip("onnxruntime")

from fcos_train.deploy.onnx.export import ExportOptions, export
from fcos_train.deploy.onnx.level_folding import LevelConv, with_folded_norms
from fcos_train.models.level_norm import LevelNorm
from mmcv_overrides.checkpoint import save
from tests.support.heads import Scene, fcos_pair
from tests.support.level_norms import level_pair, scattered
from tests.support.small_detectors import CLASSES, small_config
from tests.support.steps import small_model

SEPARABLE = {"conv_cfg": {"type": "SeparableConv2d"}}
NORMS = {"own affine": {"type": "BN"}, "shared affine": {"type": "LevelBN", "shared_affine": True}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """norm -> checkpoint of a small FCOS whose levels have statistics far apart."""
    from tests.support import small_detectors

    folder, made = tmp_path_factory.mktemp("checkpoints"), {}
    for name, norm in NORMS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(small_detectors.NORMS, "fcos-bn", norm)
            config, model = small_config("fcos-bn", fixed_shape=True), small_model("fcos-bn")
        scattered(model.bbox_head)
        made[name] = str(folder / f"{name}.pth".replace(" ", "-"))
        meta = {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}}
        save({"state_dict": model.state_dict(), "meta": meta}, made[name])
    return made


@pytest.mark.parametrize("end", ["raw", "decoded", "nms", "ascend"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_end_equals_pytorch_and_has_no_norm(norm, end, checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    result = export(ExportOptions(checkpoints[norm], end=end, output=str(path), shape=(96, 128)), lambda _: None)
    assert all(found.fault is None and found.count > 0 for found in result.differences)
    graph = onnx.load(str(path)).graph
    assert not [node.name for node in graph.node if node.op_type == "BatchNormalization"]
    towers = [node for node in graph.node if node.op_type == "Conv" and "cls_convs" in node.name]
    assert len(towers) == 5 and len({node.input[1] for node in towers}) == 5  # a weight for each level


@pytest.mark.parametrize(
    "options",
    [{}, {"shared_affine": True}, {"conv_bias": True}, {"kind": "fsaf"}, {"dcn_on_last_conv": True}, SEPARABLE],
)
def test_a_folded_copy_predicts_the_same(options):
    head, _ = level_pair(**options)
    head.eval()
    folded = with_folded_norms(head)
    assert not [part for part in folded.modules() if isinstance(part, LevelNorm)]
    assert sum(isinstance(part, LevelConv) for part in folded.modules()) == 4
    assert sum(isinstance(part, LevelNorm) for part in head.modules()) == 4  # the head itself is as it was
    scene = Scene("some")
    with torch.no_grad():
        for found, expected in zip(folded(scene.feats), head(scene.feats), strict=True):
            for one, other in zip(found, expected, strict=True):
                assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_head_without_norms_per_level_is_itself():
    for norm in ({"type": "GN", "num_groups": 4}, None):
        head, _ = fcos_pair(norm_cfg=norm)
        assert with_folded_norms(head) is head
