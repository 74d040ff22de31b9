"""The report of a work dir written by hand: what stands on the page, and what is said where something is missing."""

import json
import re
import subprocess
import sys
from dataclasses import astuple
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.report import pictures
from fcos_train.report.artefacts import artefacts
from fcos_train.report.curves import curves
from fcos_train.report.facts import differences
from fcos_train.report.labels import statistics
from fcos_train.report.page import build
from fcos_train.report.records import config_values, flat
from tests.support.commands import ROOT

from .test_accuracy import write_case

LOG = [
    {"mode": "train", "epoch": 1, "iter": 5, "step": 5, "lr": 0.1, "loss": 3.0, "loss_cls": 2.0, "images_per_s": 4.0},
    {"mode": "val", "epoch": 1, "iter": 3, "bbox_mAP": 0.2, "bbox_mAP_50": 0.4, "val_loss": 2.5},
    {"mode": "train", "epoch": 2, "iter": 5, "step": 10, "lr": 0.01, "loss": "nan", "images_per_s": 5.0, "fps": 6.0},
    {"mode": "val", "epoch": 2, "iter": 3, "bbox_mAP": 0.5, "bbox_mAP_50": 0.7, "val_loss": 2.25},
]
CONFIG = """
model = dict(type="FCOS", neck=dict(out_channels=32))
val_dataloader = dict(batch_size=1, dataset=dict(ann_file={ann!r}, data_prefix=dict(img={img!r})))
"""


def a_work_dir(folder: Path, epochs: int = 2) -> Path:
    """A finished run with an evaluation of three grey images, one of which has a name that is markup."""
    folder.mkdir(parents=True)
    prefix = write_case(folder)
    ann_file = folder / "instances.json"
    ann_file.write_text(ann_file.read_text().replace("a.jpg", "<b>&a.jpg").replace('"owl"', '"<owl>"'))
    metrics = Path(f"{prefix}.metrics.json")
    metrics.write_text(metrics.read_text().replace('"owl"', '"<owl>"'))
    (folder / "20260101_120000.log.json").write_text("".join(json.dumps(r) + "\n" for r in LOG[: 2 * epochs]))
    images = folder / "images"
    images.mkdir()
    for name in ("<b>&a", "b", "c"):
        cv2.imwrite(str(images / f"{name}.jpg"), np.full((100, 100, 3), 90, np.uint8))
    (folder / "config.py").write_text(CONFIG.format(ann=str(ann_file), img=str(images)))
    return folder


class Tags(HTMLParser):
    """Collects what a page refers to, its texts, and whether tags are closed in order."""

    VOID = ("meta", "img", "br", "link", "use", "path", "rect", "line")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources, self.open, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_and_shows_every_part(tmp_path):
    folder = a_work_dir(tmp_path / "run")
    page = build(folder).read_text()
    tags = Tags(page)
    assert tags.open == []
    assert [s for s in tags.sources if not s.startswith(("#", "data:image/"))] == []  # nothing outside of the file
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    text = " ".join(" ".join(tags.words).split())
    for expected in (
        "best mAP 0.500 epoch 2",
        "The largest mean F1 is 0.619 at a confidence of 0.300",
        "cat 0 0.500 0.500 –",  # AP and AP50 of the file; no AP75
        "0.667 0.300 0.667 0.667",  # F1, confidence, precision and recall of cats
        "<b>&a.jpg: 1 missed, 2 invented",
        "b.jpg: 1 missed, 1 invented",
        "<owl>",
        "images/s over the whole run 6.00",
        "val_loss (validation)",
        "This run did not record its environment.",
    ):
        assert expected in text, expected
    assert page.count("data:image/jpeg") == 3
    drawn = {path.name for path in (folder / "report").glob("*.png")}
    assert drawn >= {"loss.png", "lr.png", "map.png", "precision_recall.png", "f1_confidence.png"}
    assert drawn >= {"confusion_matrix.png", "labels_classes.png", "labels_sizes.png", "speed.png"}
    assert not list((folder / "report").glob(".*"))  # no temporary files


def test_the_colours_of_figures_follow_the_page(tmp_path):
    page = build(a_work_dir(tmp_path / "run"), with_images=False).read_text()
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 11 and all("currentColor" in figure for figure in figures)
    assert "#010203" not in page
    assert not re.search(r"<path[^>]*fill: #f{6}", "".join(figures))  # no white background
    assert "The worst images are drawn when the training ends" in page and "data:image/jpeg" not in page


def test_what_is_missing_is_said(tmp_path, capsys):
    folder = a_work_dir(tmp_path / "run")
    (folder / "images" / "b.jpg").write_bytes(b"no image")
    assert "the image" in (page := build(folder).read_text()) and "b.jpg cannot be read" in page
    (folder / "instances.json").unlink()
    (folder / "report" / "labels.json").unlink()
    page = build(folder).read_text()
    assert page.count("no annotations:") == 2 and "best mAP" in page
    (folder / "20260101_120000.log.json").unlink()
    assert main(["report", str(folder)]) == 2
    assert "no *.log.json with results" in capsys.readouterr().err


def test_report_that_cannot_be_written_keeps_the_old_one(tmp_path, capsys, monkeypatch):
    folder = a_work_dir(tmp_path / "run")
    old = build(folder, with_images=False).read_text()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fcos_train.report.page.os.replace", full)
    assert main(["report", str(folder)]) == 2
    assert "the report cannot be written: [Errno 28] No space left" in capsys.readouterr().err
    assert (folder / "report" / "index.html").read_text() == old
    assert not list((folder / "report").glob(".*"))


def test_comparison_of_runs(tmp_path, capsys):
    first, second = a_work_dir(tmp_path / "a" / "run"), a_work_dir(tmp_path / "b" / "run", epochs=1)
    (second / "config.py").write_text((second / "config.py").read_text().replace("=32", "=64"))
    output = tmp_path / "both" / "page.html"
    assert main(["report", str(first), str(second), "--compare", "--output", str(output)]) == 0
    assert f"comparison: {output}" in capsys.readouterr().out
    text = " ".join(" ".join(Tags(output.read_text()).words).split())
    assert "a/run b/run best mAP in training 0.500 0.200 of epoch 2 1" in text
    assert "model.neck.out_channels 32 64" in text
    assert re.findall(r'class="best">([\d.]+)<', output.read_text()) == ["0.500"]  # the last evaluations are equal
    assert (output.parent / "page_loss.png").is_file()
    assert main(["report", str(first), "--compare"]) == 2
    assert "--compare needs at least two work dirs" in capsys.readouterr().err
    assert main(["report", str(first), "--output", "x.html"]) == 2


def test_pictures_of_a_data_set(shapes, tmp_path, capsys):
    assert main(["check-data", str(shapes), "--pictures", str(tmp_path / "new" / "folder")]) == 0
    folder = tmp_path / "new" / "folder"
    assert f"pictures: {folder / 'index.html'}" in capsys.readouterr().out
    assert [len(list(folder.glob(f"{split}_*.jpg"))) for split in ("train", "val")] == [16, 8]
    assert len(list(folder.glob("labels_*.png"))) == 4
    page = (folder / "index.html").read_text()
    assert "train: 24 images" in page and page.count("data:image/jpeg") == 24 and Tags(page).open == []
    (tmp_path / "file").write_text("")
    assert main(["check-data", str(shapes), "--pictures", str(tmp_path / "file")]) == 2
    assert "no pictures: " in capsys.readouterr().err


def test_the_command_imports_no_torch():
    code = "import fcos_train.report.compare, fcos_train.report.samples, supervision, faster_coco_eval.extra, sys;"
    code += "sys.exit(' '.join({'torch', 'mmengine', 'mmdet', 'mmcv'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_curves_of_a_log():
    found = curves(LOG)
    assert found.losses == {"loss": ([5], [3.0]), "loss_cls": ([5], [2.0])}  # what is not finite is left out
    assert found.val_losses == {"val_loss": ([5, 10], [2.5, 2.25])}
    assert found.accuracy == {"bbox_mAP": ([5, 10], [0.2, 0.5]), "bbox_mAP_50": ([5, 10], [0.4, 0.7])}
    assert found.lr == {"lr": ([5, 10], [0.1, 0.01])} and found.speed == {"images_per_s": ([5, 10], [4.0, 5.0])}


def test_label_statistics():
    labels = statistics(
        {
            "categories": [{"id": 4, "name": "b"}, {"id": 2, "name": "a"}],
            "images": [{"id": 1, "width": 100, "height": 50}, {"id": 2, "width": 10, "height": 10}, {"id": 3}],
            "annotations": [
                {"image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 2]},
                {"image_id": 1, "category_id": 2, "bbox": [0, 0, 25, 25]},
                {"image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
                {"image_id": 3, "category_id": 2, "bbox": [0, 0, 3, 3]},  # of an image of unknown size
            ],
        }
    )
    assert labels.per_class == {"b": 1, "a": 2} and labels.per_image.tolist() == [2, 0, 1]
    assert labels.side.tolist() == [10, 25, 3] and labels.size.tolist() == [[0.5, 0.04], [0.25, 0.5]]


def test_configs_are_read_and_compared_as_data(tmp_path):
    (tmp_path / "config.py").write_text("import os\na = dict(b=[dict(c=-1), dict(c=(2, 3))])\nd = os.getcwd()\n")
    values = config_values(tmp_path)
    assert values == {"a": {"b": [{"c": -1}, {"c": [2, 3]}]}, "d": "os.getcwd()"}
    assert flat(values) == {"a.b[0].c": -1, "a.b[1].c": [2, 3], "d": "os.getcwd()"}
    assert differences([values, {"a": {"b": [{"c": -1}]}, "e": None}]) == [
        ["a.b[1].c", "[2, 3]", "-"],
        ["d", "os.getcwd()", "-"],
        ["e", "-", "null"],
    ]


def test_exports_are_found_in_the_folder_and_by_their_list(tmp_path):
    content = dict(classes=["a"], input={"shape": [1, 3, 8, 8]}, outputs=[], mean=[0], std=[1], end="raw")
    verified = [{"name": "cls_0", "largest": 2e-6}]
    (tmp_path / "model.onnx").write_bytes(b"x" * 1_500_000)
    (tmp_path / "model.json").write_text(json.dumps({**content, "verified": verified}))
    elsewhere = tmp_path / "x" / "y" / "z" / "m.ncnn.param.json"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(json.dumps({**content, "target": "ncnn", "precision": "fp16"}))
    (tmp_path / "exports.json").write_text(json.dumps([str(elsewhere), str(tmp_path / "gone.json")]))
    assert [astuple(one) for one in artefacts(tmp_path)] == [
        ("m.ncnn.param", "ncnn", "fp16", "1 × 3 × 8 × 8", None, []),
        ("model.onnx", "onnx, end raw", "fp32", "1 × 3 × 8 × 8", 1.5, [("cls_0", 2e-6)]),
    ]


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((50, 100, 3), np.uint8)
    picture = pictures.draw(image, pictures.of_classes(np.array([[20, 10, 60, 40]]), [0], ["a"], ["#ff0000"]), 200)
    assert picture.shape == (100, 200, 3)
    red = (picture == [0, 0, 255]).all(axis=2)
    assert red[50, 40] and red[50, 120] and red[80, 80] and not red[50, 80] and not red[90].any()
    assert pictures.draw(image, pictures.of_classes(np.zeros((0, 4)), [], [], ["#ff0000"]), 50).shape == (25, 50, 3)


@pytest.mark.parametrize("count, columns, shape", [(5, 2, (3 * 16 - 6, 2 * 26 - 6, 3)), (1, 4, (10, 20 * 4 + 18, 3))])
def test_a_grid_holds_all_pictures(count, columns, shape):
    whole = pictures.grid([np.full((10, 20, 3), 1 + i, np.uint8) for i in range(count)], columns)
    assert whole.shape == shape and [(whole == 1 + i).all(axis=2).sum() for i in range(count)] == [200] * count
