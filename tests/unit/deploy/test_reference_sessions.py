"""Graphs without suppression, completed in numpy, give the detections of the checkpoint for every kind of head."""

from __future__ import annotations

import numpy as np
import pytest

from fcos_train.deploy.onnx.evaluator import ReferenceSession
from fcos_train.deploy.parts.description import read_description, read_rule
from fcos_train.deploy.parts.reference_sessions import FinishedSession, TorchSession
from fcos_train.deploy.parts.session import OnnxSession
from tests.support.small_detectors import small_config, write_checkpoint

pytest.importorskip("onnxruntime")
HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope="module", params=["fcos-bn", "fsaf", "retinanet"])
def detector(request, tmp_path_factory):
    from fcos_train.infer.detector import Detector

    path = write_checkpoint(tmp_path_factory.mktemp("model") / "m.pth", small_config(request.param), seed=3)
    return Detector.from_checkpoint(path, device="cpu")


@pytest.mark.parametrize("end,inside", [("raw", False), ("decoded", False), ("nms", False), ("nms", True)])
def test_detections_are_those_of_the_checkpoint(detector, tmp_path, end, inside):
    from fcos_train.data.shapes import draw_image
    from fcos_train.deploy.onnx.export import ExportOptions, export_detector

    options = ExportOptions(checkpoint="m.pth", end=end, shape=(HEIGHT, WIDTH), normalize_in_graph=inside)
    found = export_detector(detector, options, tmp_path / "m.onnx", say=lambda line: None)
    description = read_description(found.description)
    session = OnnxSession(found.path)
    session = session if end == "nms" else FinishedSession(session, description)
    picture = draw_image(np.random.default_rng(5), (256, 192))[0]
    batch = read_rule(found.description).prepare(picture)[None]
    dets, labels = session.run(batch)
    want_dets, want_labels = TorchSession("m.pth", detector, description).run(batch)
    assert dets.shape == want_dets.shape == (1, 100, 5) and labels.shape == (1, 100)
    assert dets.dtype == np.float32 and labels.dtype == np.int64
    strong = want_dets[0, :, 4] > 0.1
    assert strong.sum() > 5
    np.testing.assert_allclose(dets[0, strong], want_dets[0, strong], rtol=1e-3, atol=1e-3)
    assert (labels[0, strong] == want_labels[0, strong]).all()


def test_ascend_graph_with_batch_normalisation(tmp_path):
    """Half precision moves boxes by up to half a pixel and may swap neighbours: most must be found."""
    from fcos_train.data.shapes import draw_image
    from fcos_train.deploy.onnx.export import ExportOptions, export_detector
    from fcos_train.infer.detector import Detector

    path = write_checkpoint(tmp_path / "m.pth", small_config("fcos-bn"), seed=3)
    detector = Detector.from_checkpoint(path, device="cpu")
    options = ExportOptions(checkpoint="m.pth", end="ascend", shape=(HEIGHT, WIDTH))
    found = export_detector(detector, options, tmp_path / "m.onnx", say=lambda line: None)
    description = read_description(found.description)
    batch = read_rule(found.description).prepare(draw_image(np.random.default_rng(5), (256, 192))[0])[None]
    dets, labels = ReferenceSession(found.path, description).run(batch)
    want_dets, want_labels = TorchSession(path, detector, description).run(batch)
    strong = want_dets[0, :, 4] > 0.1
    near = 0
    for row, label in zip(want_dets[0, strong], want_labels[0, strong], strict=True):
        same = (np.abs(dets[0, :, :4] - row[:4]).max(1) < 0.5) & (np.abs(dets[0, :, 4] - row[4]) < 2e-3)
        near += bool((same & (labels[0] == label)).any())
    assert strong.sum() > 5 and near >= 0.9 * strong.sum()
