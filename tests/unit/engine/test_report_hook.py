"""The report as trainings and evaluations write it: facts, batches, TensorBoard's pictures, and failures."""

import json
import types

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine import report_hook
from fcos_train.engine.run import evaluate, train
from fcos_train.geometry.padded import PaddedObjects
from tests.support.trainings import TINY


def trained(shapes, folder, **options):
    """Two epochs of three steps with an evaluation after each."""
    config = folder.parent / f"tiny_{folder.name}.py"
    changes = "train_cfg = dict(val_interval=1)\nmodel = dict(test_cfg=dict(score_thr=0))\n"
    config.write_text(f"_base_ = {str(TINY)!r}\n{changes}")
    settings = dict(data_path=str(shapes), work_dir=str(folder), seed=0, workers=0, device="cpu", pretrained="none")
    settings |= dict(opt_level="O0", batch_size=8, max_epochs=2, **options)
    return train(TrainOptions(str(config), **settings))


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """A finished training, and the pages that it wrote."""
    folder, pages = tmp_path_factory.mktemp("report") / "run", []
    build = report_hook._build

    def watched(runner, with_images):
        build(runner, with_images)
        pages.append((runner.epoch, with_images, (folder / "report" / "index.html").read_text()))

    report_hook._build = watched
    try:
        trained(shapes, folder)
    finally:
        report_hook._build = build
    return folder, pages


def test_a_report_after_every_evaluation_and_the_images_at_the_end(run):
    _, pages = run
    assert [(epoch, with_images) for epoch, with_images, _ in pages] == [(1, False), (2, True)]
    assert [page.count("ground truth and detections") for *_, page in pages] == [0, 8]  # the validation images
    assert ["The worst images are drawn when the training ends" in page for *_, page in pages] == [True, False]
    assert [page.count('alt="training batch"') for *_, page in pages] == [2, 2]
    assert all("train: 24 images" in page and "Confusion matrix" in page for *_, page in pages)


def test_facts(run, shapes):
    folder, _ = run
    facts = json.loads((folder / "report" / "facts.json").read_text())
    changed = {key: (old, new) for key, old, new in facts["differences"]}
    assert changed["train_cfg.val_interval"][1] == "1" and changed["model.test_cfg.score_thr"] == ("0.05", "0")
    assert ["--batch-size", "8"] in facts["given"] and ["--seed", "0"] in facts["given"]
    assert all(flag != "--resume" for flag, _ in facts["given"])
    assert facts["environment"]["torch"] == torch.__version__ and facts["environment"]["seed"] == "0"
    assert facts["images"]["val"] == str(shapes / "val2017")
    assert facts["annotations"]["train"].endswith("instances_train2017.json")


def test_tensorboard_gets_two_pictures_of_each_evaluation(run):
    folder, _ = run
    events = EventAccumulator(str(next((folder / "tb").rglob("events.out*")).parent), size_guidance={"images": 0})
    events.Reload()
    for tag in ("val/picture_1", "val/picture_2"):
        found = events.Images(tag)
        assert [event.step for event in found] == [3, 6]
        picture = cv2.imdecode(np.frombuffer(found[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[:2] == (384, 2 * 480 + 6)  # ground truth beside detections, of 160 x 128 px


def test_an_evaluation_has_a_report_too(run, shapes):
    folder, _ = run
    evaluate(EvalOptions(None, str(folder / "latest.pth"), data_path=str(shapes), device="cpu", workers=0))
    page = (folder / "eval" / "report" / "index.html").read_text()
    assert page.count("ground truth and detections") == 8 and "Evaluation of a checkpoint of" in page


def test_no_report_where_none_is_wanted(shapes, tmp_path):
    trained(shapes, tmp_path / "run", report=False, max_iters=1)
    assert not (tmp_path / "run" / "report").exists()


def test_a_failure_is_one_line_and_the_training_goes_on(shapes, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fcos_train.report.page.build", full)
    monkeypatch.setattr("fcos_train.report.pictures.write", full)
    monkeypatch.setattr(report_hook, "write_json", full)
    runner = trained(shapes, tmp_path / "run", max_iters=2)
    assert runner.iter == 2 and (tmp_path / "run" / "latest.pth").exists()
    log = next((tmp_path / "run").glob("*.log")).read_text()
    lines = [line.partition("WARNING - ")[2] for line in log.splitlines() if "No space left" in line]
    assert lines == [
        f"no {what}: OSError: [Errno 28] No space left on device"
        for what in ("facts of the report", "picture of a training batch", "report")  # each once
    ]


def a_runner(tmp_path, iteration=0):
    dataset = types.SimpleNamespace(metainfo={"classes": ("a", "b")})
    return types.SimpleNamespace(
        work_dir=str(tmp_path), iter=iteration, train_dataloader=types.SimpleNamespace(dataset=dataset), logger=None
    )


@pytest.mark.parametrize("kind", ["fixed", "mmdet"])
def test_a_batch_is_drawn_as_it_is(tmp_path, kind):
    """Two grey images with one box each, as the fixed-shape step and as mmdet's own step get them."""
    images = torch.full((2, 3, 26, 52), 100, dtype=torch.uint8)
    boxes, labels = [torch.tensor([[5.0, 5, 20, 20]])] * 2, [torch.tensor([0]), torch.tensor([1])]
    if kind == "fixed":
        batch = {"inputs": images, "data_samples": PaddedObjects.gather(boxes, labels, [], [(26, 52)] * 2)}
    else:
        truth = [InstanceData(bboxes=b, labels=n) for b, n in zip(boxes, labels)]
        batch = {"inputs": list(images), "data_samples": [DetDataSample(gt_instances=t) for t in truth]}
    hook = report_hook.ReportHook(None)
    hook.before_train_iter(a_runner(tmp_path, iteration=2), 2, batch)  # only the first two
    assert not (tmp_path / "report").exists()
    hook.before_train_iter(a_runner(tmp_path), 0, batch)
    picture = cv2.imread(str(tmp_path / "report" / "train_batch_1.jpg")).astype(int)
    assert picture.shape == (130, 2 * 260 + 6, 3)
    # five times as large: a vertical edge at x = 25 and at 266 + 25; blue for class a and orange for b, BGR
    for left, colour in ((0, (246, 130, 59)), (266, (22, 115, 249))):
        edge = picture[60:90, left + 22 : left + 28].reshape(-1, 3)
        assert np.abs(edge - colour).sum(axis=1).min() < 60
        assert np.abs(picture[60:90, left + 40 : left + 90] - 100).max() < 20
