"""The verification finds wrong outputs, accepts what rounding decides, and keeps finished files."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from tests.support.small_detectors import small_config, write_checkpoint

pytest.importorskip("onnxruntime")

from fcos_train.deploy.onnx import export as exporting
from fcos_train.deploy.onnx.ascend_ops import BatchMultiClassNMS, batch_multi_class_nms
from fcos_train.deploy.onnx.compare import compare
from fcos_train.deploy.onnx.evaluator import _Evaluator
from fcos_train.deploy.onnx.export import ExportOptions, NotTheSame, export
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.spec import GraphSpec, Output, Selection
from fcos_train.deploy.onnx.verify import answer
from fcos_train.infer.detector import Detector

RULES = Selection(0.05, 1000, 0.5, 100, 0.0)
DETS = (Output("dets", "dets"), Output("labels", "labels"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "fcos.pth", small_config("fcos-plain")))


def _with_changed_weight(model):
    """The model as a faulty exporter would write it."""
    tensor = next(t for t in model.graph.initializer if t.name.endswith("conv_reg.bias"))
    values = onnx.numpy_helper.to_array(tensor) + np.float32(0.1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


@pytest.mark.parametrize("end", ["raw", "decoded", "nms", "ascend"])
def test_a_wrong_weight_fails_and_the_finished_file_stays(end, checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"finished before")
    write = exporting.write
    monkeypatch.setattr(exporting, "write", lambda graph, opset: _with_changed_weight(write(graph, opset)))
    with pytest.raises(NotTheSame, match=r"model\.failed\.onnx") as raised:
        export(ExportOptions(checkpoint, end=end, output=str(path), shape=(64, 96)), lambda _: None)
    assert ("from float64, PyTorch itself" in str(raised.value)) is (end in ("raw", "decoded"))
    assert path.read_bytes() == b"finished before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.failed.onnx", "model.onnx"]
    onnx.load(tmp_path / "model.failed.onnx")


def test_without_objects_the_graph_is_proved_at_threshold_zero(checkpoint, tmp_path):
    lines = []
    path = tmp_path / "model.onnx"
    export(ExportOptions(checkpoint, output=str(path), shape=(64, 96), score_thr=0.999), lines.append)
    (place,) = [i for i, line in enumerate(lines) if "no object above 0.999" in line]
    assert "detections matched" in lines[place + 1] and "(0 detections" not in lines[place + 1]
    assert path.is_file()


def _dets(*rows):
    dets, labels = np.zeros((1, 100, 5), np.float32), np.zeros((1, 100), np.int64)
    for place, (box, score, label) in enumerate(rows):
        dets[0, place, :4], dets[0, place, 4], labels[0, place] = box, score, label
    return dets, labels


def _not_needed(_):
    raise AssertionError("float64 is asked for although every value is within tolerance")


def _fault(mine, other, rules=RULES):
    """With a PyTorch that gives the same result every time."""
    return compare(DETS, mine, other, rules, half=False, again=lambda _: other)[0].fault


def test_detections_match_within_half_a_pixel_and_a_thousandth():
    one = _dets(([10, 10, 50, 50], 0.9, 1))
    assert _fault(one, _dets(([10.4, 10, 50, 50], 0.9005, 1))) is None
    assert "ties" in _fault(one, _dets(([10.6, 10, 50, 50], 0.9, 1)))  # as good and overlapping, but all of them
    assert "without a counterpart" in _fault(one, _dets(([10, 10, 50, 50], 0.902, 1)))
    assert "without a counterpart" in _fault(one, _dets(([10, 10, 50, 50], 0.9, 2)))
    assert "without a counterpart" in _fault(one, _dets())


def test_a_detection_that_rounding_decides_is_forgiven():
    one = ([0, 0, 100, 100], 0.9, 1)
    beside = ([0, 0, 100, 50], 0.8, 1)  # overlaps by exactly the limit
    assert _fault(_dets(one, beside), _dets(one)) is None
    assert _fault(_dets(one, ([0, 0, 100, 52], 0.8, 1)), _dets(one)) is not None
    assert _fault(_dets(one, ([200, 0, 300, 50], 0.0502, 1)), _dets(one)) is None  # on the threshold
    assert _fault(_dets(one, ([200, 0, 300, 50], 0.0702, 1)), _dets(one)) is not None


def test_what_pytorch_itself_finds_or_not_is_forgiven():
    one, two = ([10, 10, 50, 50], 0.9, 1), ([100, 10, 150, 50], 0.3, 2)

    def fault(mine, other, answers):
        return compare(DETS, mine, other, RULES, half=False, again=lambda number: answers[number])[0].fault

    both, alone = _dets(one, two), _dets(one)
    for mine, other in ((both, alone), (alone, both)):
        assert "without a counterpart" in fault(mine, other, [other] * 4)
        for number in range(4):
            answers = [other] * 4
            answers[number] = mine
            assert fault(mine, other, answers) is None


def test_only_a_few_detections_may_hang_on_a_threshold():
    plain = [([200.0 * i, 0, 200.0 * i + 100, 50], 0.9, 1) for i in range(41)]
    doubtful = [([200.0 * i, 500, 200.0 * i + 100, 550], 0.0502, 1) for i in range(3)]
    both = _dets(*plain)
    assert _fault(_dets(*plain, *doubtful[:2]), both) is None
    assert "3 of 44 detections differ by ties" in _fault(_dets(*plain, *doubtful), both)


MAP, SCORES = (Output("cls_0", "map"),), (Output("scores", "scores"),)


def test_maps_are_compared_by_rtol_and_atol():
    other = np.array([[[[0.0, 1.0, -200.0]]]], np.float32)
    for error, good in (([0.9e-5, 0, 0], True), ([0, 1e-3, 0.2], True), ([1.1e-5, 0, 0], False), ([0, 0, 0.21], False)):
        again = _not_needed if good else lambda _: [other]
        (found,) = compare(MAP, [other + np.float32(error)], [other], RULES, half=False, again=again)
        assert (found.fault is None) is good and not found.note
        assert found.largest == pytest.approx(max(error), rel=1e-3)
    nothing = np.full_like(other, np.nan)
    for mine, theirs in ((nothing, other), (np.full_like(other, np.inf), other), (nothing, nothing)):
        (found,) = compare(MAP, [mine], [theirs], RULES, half=False, again=lambda _: [nothing])
        assert found.fault and found.largest == float("inf")
    (found,) = compare(MAP, [other[..., :2]], [other], RULES, half=False, again=_not_needed)
    assert "shape" in found.fault


def test_beyond_the_tolerance_the_file_may_be_twice_as_far_from_float64_as_pytorch():
    ideal = np.zeros((1, 1, 40, 100))
    other = ideal.astype(np.float32)
    other[0, 0, 0, 0] = 1.5e-5
    for error, good in ((2.9e-5, True), (3.1e-5, False)):
        mine = np.zeros_like(other)
        mine[0, 0, 1, 1] = error
        (found,) = compare(MAP, [mine], [other], RULES, half=False, again=lambda _: [ideal])
        assert (found.fault is None) is good
        assert f"{error:.1e} from float64, PyTorch itself 1.5e-05" in (found.note if good else found.fault)
        assert "2 of 4000 values" in (found.note if good else found.fault)


def test_scores_on_the_threshold_may_fall_on_either_side():
    other = np.full((1, 100, 4), 0.4, np.float32)
    other[0, 0, 0] = 0.03
    mine = other.copy()
    mine[0, 0, 0] = 0
    (found,) = compare(SCORES, [mine], [other], RULES, half=False, again=_not_needed)
    assert found.fault is None and "1 on the threshold" in found.note
    mine[0, 1, 0] = 0
    (found,) = compare(SCORES, [mine], [other], RULES, half=False, again=lambda _: [other])
    assert found.fault


@pytest.mark.parametrize("end", ["raw", "decoded"])
def test_the_float64_answer_is_computed_in_float64(end, checkpoint):
    graph = build_graph(Detector.from_checkpoint(checkpoint, None, "cpu").model, GraphSpec(end, (64, 96)))
    inputs = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32) * 50
    single, double = (answer(graph, inputs.astype(kind)) for kind in (np.float32, np.float64))
    for output, mine, ideal in zip(graph.outputs, single, double, strict=True):
        # boxes of FCOS are taken to float32 by mmdet's head itself, as its last step
        assert mine.dtype == np.float32 and ideal.dtype == (np.float32 if "box" in output.name else np.float64)
        compared = (mine != 0) & (ideal != 0) if output.kind == "scores" else np.ones(mine.shape, bool)
        assert np.allclose(mine[compared], ideal[compared], rtol=1e-4, atol=1e-4)
    assert {parameter.dtype for parameter in graph.parameters()} == {torch.float32}  # left as it was


def test_batch_multi_class_nms_by_hand():
    """Three overlapping boxes and a distant one, two classes; computed by hand."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [20, 20, 30, 30]], np.float32)[None, :, None]
    scores = np.array([[0.9, 0.1], [0.8, 0.3], [0.7, 0.05], [0.2, 0.95]], np.float32)[None]
    rows, values, classes, number = batch_multi_class_nms(boxes, scores, 0.05, 0.5, 2, 5)
    # class 0: box 0 removes box 1 (IoU .8) but not box 2 (.4); at most 2, so box 3 is not reached
    # class 1: box 3, then box 1 (it removes box 0); box 2 has exactly the threshold
    assert values[0].tolist() == pytest.approx([0.95, 0.9, 0.7, 0.3, 0.0])
    assert classes[0].tolist() == [1, 0, 0, 1, 0]
    assert rows[0, :, 3].tolist() == [30, 10, 4, 8, 0]
    assert number.tolist() == [4] and number.dtype == np.int32
    half = batch_multi_class_nms(boxes.astype(np.float16), scores.astype(np.float16), 0.05, 0.5, 2, 5)
    assert [part.dtype for part in half] == [np.float16] * 3 + [np.int32]


def test_the_ascend_graph_is_what_the_device_expects(checkpoint, tmp_path):
    path = tmp_path / "model.onnx"
    # 12 x 16 places on the finest level: more than nms_pre, so that a TopK is needed
    config = small_config("fcos-plain")
    config.model.test_cfg.nms_pre = 50
    own = write_checkpoint(tmp_path / "own.pth", config)
    export(ExportOptions(str(own), end="ascend", output=str(path), shape=(96, 128), batch=2), lambda _: None)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    kinds = [node.op_type for node in model.graph.node]
    assert {node.domain for node in model.graph.node} == {""}
    assert kinds.count("BatchMultiClassNMS") == 1 and kinds.count("TopK") == 1
    assert not {"NonMaxSuppression", "Shape", "Range", "NonZero"} & set(kinds)
    (nms,) = [node for node in model.graph.node if node.op_type == "BatchMultiClassNMS"]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in nms.attribute}
    assert attributes == {
        "score_threshold": 0.0,
        "iou_threshold": 0.5,
        "max_size_per_class": 100,
        "max_total_size": 100,
    }
    assert len(nms.output) == 4
    made_by = {name: node for node in model.graph.node for name in node.output}
    for name in nms.input:
        cast = made_by[name]
        assert cast.op_type == "Cast"
        assert onnx.helper.get_attribute_value(cast.attribute[0]) == onnx.TensorProto.FLOAT16
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    index = made_by[gathers[0].input[1]]
    while index.op_type == "Reshape":
        index = made_by[index.input[0]]
    assert index.op_type == "Add"  # order within an image + first row of the image
    assert made_by[index.input[0]].op_type == "Cast"
    assert onnx.helper.get_attribute_value(made_by[index.input[0]].attribute[0]) == onnx.TensorProto.INT32
    with pytest.raises(onnx.checker.ValidationError):  # as stock tools do; ours shows the operator its own domain
        onnx.checker.check_model(model, full_check=True)
    onnx.reference.ReferenceEvaluator(model, new_ops=[BatchMultiClassNMS])


def test_the_evaluator_that_forgets_answers_as_the_one_that_does_not():
    """One value is read twice, one is an output and read later, one is never read."""
    one = onnx.helper.make_node
    nodes = [
        one("Relu", ["input"], ["a"]),
        one("Neg", ["a"], ["middle"]),
        one("Split", ["middle"], ["b", "unused"], axis=0),
        one("Add", ["b", "weight"], ["c"]),
        one("Mul", ["c", "weight"], ["end"]),
    ]
    value = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    outputs = [value("end", 1, [1, 3]), value("middle", 1, [2, 3])]
    graph = onnx.helper.make_graph(nodes, "g", [value("input", 1, [2, 3])], outputs, [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)])
    feed = {"input": np.float32([[1, -2, 3], [4, 5, 6]])}
    frugal, original = _Evaluator(model), onnx.reference.ReferenceEvaluator(model)
    for _ in range(2):
        for mine, other in zip(frugal.run(None, feed), original.run(None, feed), strict=True):
            assert np.array_equal(mine, other)
    assert frugal.run(["middle"], feed)[0].tolist() == [[-1, 0, -3], [-4, -5, -6]]


def test_rules_of_test_cfg():
    rules = Selection.of({"nms_pre": -1, "score_thr": 0.1, "nms": {"type": "nms", "iou_threshold": 0.6}}, "nms")
    assert rules == replace(RULES, score_thr=0.1, nms_pre=None, iou_threshold=0.6, min_bbox_size=-1)
