"""Two-stage detectors and deformable convolution as ONNX, compared with mmdet and between runtimes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import mmdet
from mmcv.ops import deform_conv2d, modulated_deform_conv2d
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from fcos_train.data.shapes import draw_image
from fcos_train.deploy.onnx import roi_ops
from fcos_train.deploy.onnx.ascend_two_stage import deformable_conv, roi_extractor
from fcos_train.deploy.onnx.deform_conv import ConvSettings, decomposed
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.opset import choose
from fcos_train.deploy.onnx.spec import GraphSpec
from fcos_train.deploy.onnx.verify import beside_mmdet, verify
from fcos_train.deploy.onnx.writing import write
from mmcv_overrides.errors import UserError

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
CASCADE = "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
CASCADE_DCN = "dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco.py"
FASTER = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SHAPE = (64, 96)


def _detector(name, seed=0):
    """The detector of mmdet's configuration with an eighth of the channels and weights that find many objects."""
    register_all_modules()
    model = Config.fromfile(CONFIGS / name).model
    model.backbone.update(init_cfg=None, depth=50, base_channels=8, stem_channels=8)
    model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    model.roi_head.bbox_roi_extractor.out_channels = 32
    several = isinstance(model.roi_head.bbox_head, list)
    for head in model.roi_head.bbox_head if several else [model.roi_head.bbox_head]:
        head.update(in_channels=32, fc_out_channels=64, num_classes=5)
    model.test_cfg.rpn.update(nms_pre=60, max_per_img=40)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    detector = MODELS.build(model).eval()
    for path, parameter in detector.named_parameters():
        if "head" in path and parameter.dim() > 1:
            spread = 1.5 / (parameter[0].numel() ** 0.5)
            spread *= 0.2 if "reg" in path else 1
            torch.nn.init.normal_(parameter, std=spread, generator=generator)
        elif path.endswith("conv_offset.bias"):
            torch.nn.init.normal_(parameter, std=1.0, generator=generator)
        elif parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1 / (parameter[0].numel() ** 0.5), generator=generator)
    return detector


def _images():
    return [draw_image(np.random.default_rng(seed), (96, 64))[0] for seed in range(2)]


GRAPHS = [
    (CASCADE, "nms", 17, {"RoiAlign": 12, "NonMaxSuppression": 6}),
    (CASCADE, "ascend", 11, {"RoiExtractor": 3, "BatchMultiClassNMS": 2}),
    (FASTER, "nms", 17, {"RoiAlign": 4, "NonMaxSuppression": 6}),
    (FASTER, "ascend", 13, {"RoiExtractor": 1, "BatchMultiClassNMS": 2}),
    (CASCADE_DCN, "nms", 19, {"DeformConv": 13, "RoiAlign": 12}),
    (CASCADE_DCN, "nms", 17, {"GridSample": 13, "DeformConv": 0}),
    (CASCADE_DCN, "ascend", 11, {"DeformableConv2D": 13, "RoiExtractor": 3, "BatchMultiClassNMS": 2}),
]


@pytest.mark.parametrize("name, end, opset, operators", GRAPHS)
def test_the_graph_answers_as_mmdet(name, end, opset, operators):
    graph = build_graph(_detector(name), GraphSpec(end=end, shape=SHAPE))
    model = write(graph, opset)
    counts = Counter(node.op_type for node in model.graph.node)
    assert {key: counts[key] for key in operators} == operators
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.output] == ["dets", "labels"]
    differences, _, _ = verify(graph, model, _images())
    assert [found.fault for found in differences] == [None, None]
    assert min(found.count for found in differences) > 10


@pytest.mark.parametrize("name", [CASCADE, FASTER, CASCADE_DCN])
def test_ascend_finds_what_mmdet_finds(name):
    """With few proposals in single precision, suppressing all levels together changes nothing; half precision resolves
    some near-ties differently."""
    detector = _detector(name)
    for half, share in ((False, 1.0), (True, 0.9)):
        graph = build_graph(detector, GraphSpec(end="ascend", shape=SHAPE, half=half))
        same, own, mmdets = beside_mmdet(graph, _images())
        assert mmdets > 50 and abs(own - mmdets) <= (1 - share) * mmdets
        assert same >= share * mmdets


def test_opset_follows_the_model():
    graphs = {
        (name, end): build_graph(_detector(name), GraphSpec(end=end, shape=SHAPE))
        for name in (FASTER, CASCADE_DCN)
        for end in ("nms", "ascend")
    }
    assert choose(graphs[FASTER, "nms"]) == (17, "the default")
    assert choose(graphs[FASTER, "nms"], usual=11) == (16, "the least this graph needs")
    assert choose(graphs[CASCADE_DCN, "nms"]) == (19, "for DeformConv, of 13 deformable convolutions")
    assert choose(graphs[CASCADE_DCN, "nms"], usual=11)[0] == 19
    assert choose(graphs[CASCADE_DCN, "nms"], asked=17)[0] == 17
    assert choose(graphs[CASCADE_DCN, "ascend"]) == (11, "the default")


def test_normalisation_inside_of_the_graph():
    graph = build_graph(_detector(FASTER), GraphSpec(end="nms", shape=SHAPE, normalize=True))
    assert [found.fault for found in verify(graph, write(graph, 17), _images())[0]] == [None, None]


def test_ascend_operators_are_as_its_parser_wants_them():
    graph = build_graph(_detector(CASCADE_DCN), GraphSpec(end="ascend", shape=SHAPE))
    nodes = {node.op_type: node for node in write(graph, 11).graph.node}
    read = {
        name: {a.name: onnx.helper.get_attribute_value(a) for a in nodes[name].attribute}
        for name in ("RoiExtractor", "DeformableConv2D", "BatchMultiClassNMS")
    }
    assert read["RoiExtractor"] == {
        "aligned": 1, "finest_scale": 56, "pooled_height": 7, "pooled_width": 7, "pool_mode": b"avg",
        "roi_scale_factor": 0, "sample_num": 0, "spatial_scale": [0.25, 0.125, 0.0625, 0.03125],
    }  # fmt: skip
    assert len(nodes["RoiExtractor"].input) == 5
    assert read["DeformableConv2D"] == {
        "strides": [1, 1], "pads": [1, 1], "dilations": [1, 1], "groups": 1, "deformable_groups": 1, "bias": 0,
        "im2col_step": 32, "data_format": b"NCHW",
    }  # fmt: skip
    assert len(nodes["DeformableConv2D"].input) == 3
    assert read["BatchMultiClassNMS"] == {
        "score_threshold": pytest.approx(0.05), "iou_threshold": 0.5, "max_size_per_class": 100, "max_total_size": 100,
    }  # fmt: skip


def test_names_do_not_depend_on_weights_and_files_repeat():
    spec = GraphSpec(end="nms", shape=SHAPE)
    first, again, other = (write(build_graph(_detector(FASTER, seed), spec), 17) for seed in (0, 0, 1))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert [(n.name, list(n.input), list(n.output)) for n in first.graph.node] == [
        (n.name, list(n.input), list(n.output)) for n in other.graph.node
    ]


def test_what_has_no_graph_is_refused():
    model = _detector(FASTER)
    for wish, reason in (
        ({"end": "raw"}, "nms and ascend"),
        ({"end": "nms", "dynamic": frozenset({"batch"})}, "fixed shapes"),
        ({"end": "nms", "batch": 2}, "one image"),
    ):
        with pytest.raises(UserError, match=reason):
            build_graph(model, GraphSpec(shape=SHAPE, **wish))
    with pytest.raises(UserError, match="opset"):
        write(build_graph(model, GraphSpec(end="nms", shape=SHAPE)), 11)
    model.roi_head.bbox_roi_extractor.roi_layers[0].aligned = False
    with pytest.raises(UserError, match="aligned"):
        build_graph(model, GraphSpec(end="nms", shape=SHAPE))


def test_a_mask_head_is_the_reason_that_is_given():
    """Boxes alone would be another model than the one that was trained; the class alone would not say why."""
    model = _detector(FASTER)
    model.roi_head.mask_head = torch.nn.Identity()
    with pytest.raises(UserError, match="predicts masks, and the exported graphs return boxes only"):
        build_graph(model, GraphSpec(end="nms", shape=SHAPE))


CONVOLUTIONS = [
    {},
    {"stride": (2, 1)},
    {"dilation": (2, 2), "padding": (2, 2)},
    {"groups": 2},
    {"deform_groups": 2},
    {"padding": (0, 2), "stride": (1, 2), "deform_groups": 2, "groups": 2},
]


def _convolution(options):
    """x, offset, mask, weight, bias and settings; offsets reach beyond the border."""
    generator = torch.Generator().manual_seed(0)
    filled = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "deform_groups": 1, **options}
    settings = ConvSettings(**filled)
    x = torch.randn(2, 4, 9, 11, generator=generator)
    size = [
        (side + 2 * pad - 2 * step - 1) // stride + 1
        for side, pad, step, stride in zip((9, 11), settings.padding, settings.dilation, settings.stride)
    ]
    offset = torch.randn(2, 18 * settings.deform_groups, *size, generator=generator) * 2
    mask = torch.rand(2, 9 * settings.deform_groups, *size, generator=generator)
    weight = torch.randn(6, 4 // settings.groups, 3, 3, generator=generator)
    return x, offset, mask, weight, torch.randn(6, generator=generator), settings


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("grid_sample", [True, False])
def test_decomposed_convolution_is_mmcvs(options, grid_sample):
    x, offset, mask, weight, bias, shape = _convolution(options)
    rest = (shape.stride, shape.padding, shape.dilation, shape.groups, shape.deform_groups)
    plain = decomposed(x, offset, None, weight, None, shape, grid_sample)
    assert (plain - deform_conv2d(x, offset, weight, *rest)).abs().max() < 1e-4
    modulated = decomposed(x, offset, mask, weight, bias, shape, grid_sample)
    assert (modulated - modulated_deform_conv2d(x, offset, mask, weight, bias, *rest)).abs().max() < 1e-4


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_definition_of_ascends_convolution_is_mmcvs(options):
    x, offset, mask, weight, _, shape = _convolution(options)
    rest = (shape.stride, shape.padding, shape.dilation, shape.groups, shape.deform_groups)
    planes = torch.cat((offset[:, 1::2], offset[:, 0::2], mask), 1)
    got = deformable_conv(x.numpy(), weight.numpy(), planes.numpy(), *rest)
    want = modulated_deform_conv2d(x, offset, mask, weight, None, *rest)
    assert np.abs(got - want.numpy()).max() < 1e-4


def _regions():
    """Feature maps of four levels, and boxes of all sizes, of no size and beyond the border, [K, 4]."""
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(1, 3, 256 // s, 320 // s, generator=generator) for s in (4, 8, 16, 32)]
    corner = torch.rand(40, 2, generator=generator) * 200 - 20
    sides = torch.exp(torch.rand(40, 2, generator=generator) * 6)
    boxes = torch.cat((corner, corner + sides), 1)
    exact = torch.tensor([[0.0, 0, 112, 112], [8, 8, 232, 232], [5, 5, 5, 5], [0, 0, 0, 0], [10, 10, 10.5, 10.5]])
    return feats, torch.cat((boxes, exact))


@pytest.mark.parametrize("sampling", [0, 2])
def test_regions_are_pooled_as_mmdet_does(sampling):
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": sampling}
    extractor = SingleRoIExtractor(layer, 3, [4, 8, 16, 32])
    feats, boxes = _regions()
    rois = torch.cat((torch.zeros(len(boxes), 1), boxes), 1)
    want = extractor(feats, rois)
    assert (roi_ops.extract(extractor, feats, boxes) - want).abs().max() < 1e-5
    numpy = [feat.numpy() for feat in feats]
    got = roi_extractor(numpy, rois.numpy(), 56, (7, 7), sampling, [0.25, 0.125, 0.0625, 0.03125])
    empty = ((boxes[:, 2:] - boxes[:, :2]) <= 0).any(1).numpy()
    assert np.abs(got - want.numpy())[~empty].max() < 1e-4
