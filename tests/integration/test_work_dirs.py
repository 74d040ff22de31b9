"""A run owns its folder, through the real trainer and in one process."""

import json
import os

import pytest
import torch

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine.run import evaluate, train
from tests.support.commands import ROOT, log_records, ok, run_ranks

CONFIG = str(ROOT / "configs" / "fcos" / "fcos_tiny_shapes.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("folders")


def options(shapes, work_dir, **more):
    settings = {
        "seed": 0,
        "workers": 0,
        "batch_size": 4,
        "validate": False,
        "check": False,
        "opt_level": "O0",
        "device": "cpu",
    }
    return TrainOptions(config=CONFIG, data_path=str(shapes), work_dir=str(work_dir), **settings | more)


def written(folder):
    """When each file was written, but for the lock."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".run.lock"}


def iterations(folder):
    return torch.load(folder / "latest.pth", weights_only=True)["meta"]["iter"]


def test_a_second_run_has_a_folder_of_its_own_and_resume_takes_its_checkpoints(shapes, place):
    """The older run has more iterations; its checkpoint used to be taken, with "nothing to do" and exit status 0."""
    first, second = place / "x", place / "x-2"
    train(options(shapes, first, max_iters=8))
    before = written(first)
    train(options(shapes, first, max_iters=4))
    assert written(first) == before
    assert (iterations(first), iterations(second)) == (8, 4)
    assert len(log_records(second)) == 1 and len(list((second / "tb").rglob("events.out.tfevents.*"))) == 1
    train(options(shapes, second, max_iters=6, resume="auto"))
    assert (iterations(first), iterations(second)) == (8, 6)
    lineage = json.loads((second / "run.json").read_text())["lineage"]
    assert [until for _, until in lineage] == [4, None]


def test_an_evaluation_leaves_the_training_as_it_was(shapes, place):
    folder = place / "evaluated"
    train(options(shapes, folder, max_iters=2, validate=True))
    kept = {name: (folder / name).read_bytes() for name in ("config.py", "detections.bbox.json")}
    found = evaluate(EvalOptions(CONFIG, str(folder / "latest.pth"), str(shapes), workers=0, device="cpu"))
    assert "bbox_mAP" in found
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    names = {path.name for path in (folder / "eval").iterdir()}
    assert "config.py" not in names and {"detections.bbox.json", "detections.metrics.json"} <= names


def test_overwrite_leaves_one_run(shapes, place):
    folder = place / "again"
    train(options(shapes, folder, max_iters=8))
    train(options(shapes, folder, max_iters=3, overwrite=True))
    assert sorted(path.name for path in folder.glob("*.pth")) == ["iter_3.pth", "latest.pth"]
    assert len(list(folder.glob("*.log"))) == 1 and not (place / "again-2").exists()


def test_ranks_of_torchrun_find_each_other_without_the_flag(shapes, place):
    folder = place / "ranks"
    ok(run_ranks(
        2, "train", CONFIG, "--data-path", shapes, "--work-dir", folder, "--max-iters", 1, "--workers", 0, "--no-validate",
        "--batch-size", 2, "--device", "cpu", launcher=False,
    ))  # fmt: skip
    assert not (place / "ranks-2").exists()
    (log,) = folder.glob("*.log")
    assert "2 processes" in log.read_text()
    assert os.readlink(folder / "latest.pth") == "iter_1.pth"
