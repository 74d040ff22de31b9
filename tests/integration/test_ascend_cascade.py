"""Offline inference of a two-stage detector: Cascade R-CNN in PyTorch, in onnxruntime and with CANN's operators."""

from pathlib import Path

import pytest

from fcos_train.cli.main import main
from tests.support.self_labelled import label_with, table
from tests.support.small_detectors import small_cascade, write_checkpoint

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """`cascade.pth`, and `data/` whose boxes are its best detections."""
    import mmcv_overrides

    mmcv_overrides.activate()
    from fcos_train.infer.detector import Detector

    root = tmp_path_factory.mktemp("cascade")
    path = write_checkpoint(root / "cascade.pth", small_cascade())
    label_with(Detector.from_checkpoint(path, device="cpu"), root / "data", images=2, most=30)
    return root


def run(labelled: Path, work: Path, *words) -> int:
    fixed = ["--checkpoint", labelled / "cascade.pth", "--data-path", labelled / "data", "--work-dir", work]
    return main(["ascend", "evaluate", *map(str, [*fixed, "--device", "cpu", "--shape", 96, 128, *words])])


@pytest.mark.parametrize("end,tolerance", [("nms", 0.001), ("ascend", 0.003)])
def test_rows_agree(labelled, tmp_path, capsys, end, tolerance):
    assert run(labelled, tmp_path, "--end", end) == 0
    text = capsys.readouterr().out
    rows = table(text)
    assert rows["pth"][0] > 0.6  # the boxes were made by it, on images of another size
    assert abs(rows["pth"][0] - rows["exported"][0]) <= tolerance and rows["difference"][0] <= tolerance
    assert text.splitlines()[-1] == f"2 images; the difference in mAP is within the tolerance of {tolerance}"
    # the two outputs of both stages: 100 rows of 5 float32 and 100 labels of int64
    for dumps in ("result", "checkpoint"):
        folder = tmp_path / dumps / "dumpOutput_device0"
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert sizes == {f"cell_{i}_{k}.bin": {1: 2000, 2: 800}[k] for i in range(2) for k in (1, 2)}


@pytest.mark.parametrize("end", ["raw", "decoded"])
def test_two_stages_have_no_unfinished_ends(labelled, tmp_path, capsys, end):
    assert run(labelled, tmp_path, "--end", end) == 2
    assert "nms and ascend" in capsys.readouterr().err and not list(tmp_path.glob("*.onnx"))
