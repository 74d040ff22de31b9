"""A run owns its folder, and what it leaves there: through the real trainer, in one process."""

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmdet
import pytest
import torch

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine.run import evaluate, train
from fcos_train.report.summary import summarise
from tests.support.commands import ROOT, log_records, ok, run_ranks

CONFIG = str(ROOT / "configs" / "fcos" / "fcos_tiny_shapes.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("folders")


def options(shapes, work_dir, **more) -> TrainOptions:
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


def written(folder) -> dict[Path, int]:
    """Modification time (ns) of each file except the lock."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".run.lock"}


def iterations(folder) -> int:
    return torch.load(folder / "latest.pth", weights_only=True)["meta"]["iter"]


def test_a_second_run_has_a_folder_of_its_own_and_resume_takes_its_checkpoints(shapes, place) -> None:
    """The older run has more iterations, but ``--resume`` must not take its checkpoint."""
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


def test_an_evaluation_leaves_the_training_as_it_was(shapes, place) -> None:
    folder = place / "evaluated"
    train(options(shapes, folder, max_iters=2, validate=True))
    kept = {name: (folder / name).read_bytes() for name in ("config.py", "detections.bbox.json")}
    found = evaluate(EvalOptions(CONFIG, str(folder / "latest.pth"), str(shapes), workers=0, device="cpu"))
    assert "bbox_mAP" in found
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    names = {path.name for path in (folder / "eval").iterdir()}
    assert "config.py" not in names and {"detections.bbox.json", "detections.metrics.json"} <= names


def test_overwrite_leaves_one_run(shapes, place) -> None:
    folder = place / "again"
    train(options(shapes, folder, max_iters=8))
    train(options(shapes, folder, max_iters=3, overwrite=True))
    assert sorted(path.name for path in folder.glob("*.pth")) == ["iter_3.pth", "latest.pth"]
    assert len(list(folder.glob("*.log"))) == 1 and not (place / "again-2").exists()


def test_ranks_of_torchrun_find_each_other_without_the_flag(shapes, place) -> None:
    folder = place / "ranks"
    flags = ["--max-iters", 1, "--workers", 0, "--no-validate", "--batch-size", 2, "--device", "cpu"]
    ok(run_ranks(2, "train", CONFIG, "--data-path", shapes, "--work-dir", folder, *flags, launcher=False))
    assert not (place / "ranks-2").exists()
    (log,) = folder.glob("*.log")
    assert "2 processes" in log.read_text()
    assert os.readlink(folder / "latest.pth") == "iter_1.pth"


EPOCHS, STEPS = 2, 6  # 24 images in batches of 4


@pytest.fixture(scope="module")
def logged(shapes, place) -> Path:
    """The folder of a training that logs every step and evaluates after every epoch."""
    folder = place / "logged"
    every = {"default_hooks.logger.interval": 1, "train_cfg.val_interval": 1}
    train(options(shapes, folder, max_epochs=EPOCHS, validate=True, cfg_options=every))
    return folder


@pytest.fixture(scope="module")
def analyze_logs() -> ModuleType:
    """mmdet's own tool."""
    file = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "tools", "analysis_tools", "analyze_logs.py")
    spec = importlib.util.spec_from_file_location("analyze_logs", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_empty_folder_is_left(logged) -> None:
    (log,) = logged.glob("*.log")
    folders = [path for path in logged.iterdir() if path.is_dir()]
    assert {path.name for path in folders} == {"data", "report", "tb"} and all(any(path.iterdir()) for path in folders)
    assert (logged / f"{log.name}.json").is_file()


@pytest.mark.parametrize(
    ("key", "points"), [("loss", EPOCHS * STEPS), ("loss_cls", EPOCHS * STEPS), ("bbox_mAP", EPOCHS)]
)
def test_mmdets_analyze_logs_draws_every_point(logged, analyze_logs, monkeypatch, tmp_path, key, points) -> None:
    (log,) = map(str, logged.glob("*.log.json"))
    drawn = []
    monkeypatch.setattr(analyze_logs.plt, "plot", lambda xs, ys, **_: drawn.append((list(xs), list(ys))))
    asked = SimpleNamespace(
        backend="Agg",
        legend=None,
        json_logs=[log],
        keys=[key],
        eval_interval="1",
        title=None,
        out=tmp_path / "curve.png",
    )
    analyze_logs.plot_curve(analyze_logs.load_json_logs([log]), asked)
    ((xs, ys),) = drawn
    assert xs == list(range(1, points + 1)) and len(ys) == points
    mode = "val" if key == "bbox_mAP" else "train"
    assert ys == [record[key] for record in log_records(logged, mode)]


def test_summary_has_the_numbers_of_the_text_log(logged) -> None:
    """The last FPS, the largest mAP, and the loss of every line, to the digit."""
    text = next(logged.glob("*.log")).read_text()
    found = summarise(logged)
    assert found.losses == re.findall(r"eta:.* loss: ([^,\n]+)", text) and len(found.losses) == EPOCHS * STEPS
    assert f"{found.fps:.2f}" == re.findall(r"FPS: (\S+)", text)[-1]
    assert f"{found.accuracy:.4f}" == max(re.findall(r"bbox_mAP: ([^,]+)", text), key=float)
    assert (found.steps, found.epoch, found.batch_size, found.sessions) == (EPOCHS * STEPS, EPOCHS, 4, 1)
