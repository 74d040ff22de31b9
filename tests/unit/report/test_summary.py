"""``fcos-train summary`` on work dirs written by hand: what counts, what is left out, and which imports it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fcos_train.cli.main import main
from fcos_train.report import records as logs
from fcos_train.report.summary import summarise
from tests.support.commands import ROOT


def train(step: int, **numbers) -> dict:
    return {"mode": "train", "epoch": 1 + step // 100, "iter": step % 100, "step": step, **numbers}


def val(epoch: int, **numbers) -> dict:
    return {"mode": "val", "epoch": epoch, "iter": 72, **numbers}


def write(path, *records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """A training of two sessions: the second one continued from step 100 and repeats step 150."""
    write(
        tmp_path / "20260101_120000.log.json",
        train(50, loss=3.0, fps=40.0),
        train(100, loss=2.0, fps=41.0),
        val(1, bbox_mAP=0.3, bbox_mAP_50=0.5),
        train(150, loss=9.0, fps=42.0),
        val(1, bbox_mAP=0.9),
    )
    write(
        tmp_path / "20260102_120000.log.json",
        train(150, loss=1.5, fps=43.0),
        train(200, loss_cls=0.25, loss_bbox=1.0, loss=1.25, fps=44.004),
        val(2, bbox_mAP=0.29, bbox_mAP_50=0.49),
    )
    (tmp_path / "run.json").write_text(json.dumps({"run": "ab", "started": "2026-01-02T11:00:00+00:00"}))
    (tmp_path / "config.py").write_text(
        "x = 1\ntrain_dataloader = dict(\n    batch_size=16, dataset=dict(batch_size=3))\n"
    )
    write(tmp_path / "eval" / "20260103_120000.log.json", {"mode": "test", "epoch": 0, "iter": 72, "bbox_mAP": 0.31})
    return tmp_path


def test_numbers_of_a_resumed_training(work_dir) -> None:
    found = summarise(work_dir)
    assert found.losses == ["3.0000", "2.0000", "1.5000", "1.2500"]
    assert (found.accuracy, found.accuracy_epoch) == (0.3, 1)  # the 0.9 was measured on weights that were discarded
    assert found.validation == {"bbox_mAP": 0.29, "bbox_mAP_50": 0.49}
    assert found.evaluation == {"bbox_mAP": 0.31}
    assert (found.fps, found.steps, found.epoch, found.batch_size, found.sessions) == (44.004, 200, 3, 16, 2)
    last = summarise(work_dir, last_session=True)
    assert last.losses == ["1.5000", "1.2500"] and last.accuracy == 0.29


def test_text(work_dir, capsys) -> None:
    assert main(["summary", str(work_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"work dir       {work_dir}",
        "started        2026-01-02T11:00:00+00:00, 2 sessions",
        "trained        to epoch 3, step 200, 16 images per device and step",
        "images/s       44.00",
        "loss           1.2500 (loss_cls 0.2500, loss_bbox 1.0000)",
        "best bbox_mAP  0.3000 (epoch 1)",
        "validation     bbox_mAP 0.2900, bbox_mAP_50 0.4900",
        "evaluation     bbox_mAP 0.3100",
    ]


def test_json(work_dir, capsys) -> None:
    assert main(["summary", str(work_dir), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fps"] == 44.004 and found["losses"][-1] == "1.2500" and found["evaluation"] == {"bbox_mAP": 0.31}


def test_files_of_a_launcher(work_dir, tmp_path, capsys) -> None:
    flags = [
        "--format",
        "launcher",
        "--case-dir",
        str(tmp_path),
        "--network",
        "FSAF",
        "--rank-size",
        "2",
        "--seconds",
        "7",
        "--nodes",
        "2",
        "--device-kind",
        "cuda",
    ]
    assert main(["summary", str(work_dir), *flags]) == 0
    assert capsys.readouterr().out == (
        "------------------ Final result ------------------\n"
        "Final Performance images/sec : 44.00\n"
        "Final Train Accuracy : 0.2900\n"
        "E2E Training Duration sec : 7\n"
        "results table, head: | Acc@1 | FPS | Npu/Gpu_nums | Epochs | AMP_Type | Loss_Scale |\n"
        "results table, row:  | 29.0 | 44.0 | 4 (cuda) | 3 | n/a | n/a |\n"
        f"case log: {tmp_path}/FSAF_bs16_2p_acc.log\n"
    )
    assert (tmp_path / "train_FSAF_bs16_2p_acc_loss.txt").read_text() == "1.5000\n1.2500\n"


def test_log_of_mmcv_1(tmp_path) -> None:
    """It has neither steps nor FPS, and a line of environment information first."""
    write(
        tmp_path / "20200101_120000.log.json",
        {"env_info": "...", "seed": 0},
        {"mode": "train", "epoch": 1, "iter": 50, "lr": 0.01, "loss": 2.68, "time": 0.4},
        {"mode": "val", "epoch": 1, "iter": 2500, "lr": 0.01, "bbox_mAP": 0.164, "bbox_mAP_copypaste": "0.164 0.310"},
    )
    found = summarise(tmp_path)
    assert (found.fps, found.steps, found.accuracy, found.losses) == (None, None, 0.164, ["2.6800"])


def test_warm_up_has_no_speed(tmp_path) -> None:
    write(tmp_path / "1.log.json", train(3, loss=1.0, fps=0.0))
    found = summarise(tmp_path)
    assert found.fps is None and found.no_fps == "no epoch had more than 5 iterations, and the first 5 are warm-up"


def test_damaged_files_are_survived(tmp_path) -> None:
    (tmp_path / "1.log.json").write_bytes(b'[1]\n{"mode": "train", "loss": 2, "step": 1}\n\xff\n{"mode": "tra')
    (tmp_path / "run.json").write_text("[" * 100_000)
    (tmp_path / "config.py").write_text("train_dataloader = (")
    found = summarise(tmp_path)
    assert found.losses == ["2.0000"] and found.batch_size is None and found.started is None and found.opt_level is None


@pytest.mark.parametrize("text", ["{'batch_size': 4}", "dict(batch_size=4)"])
def test_settings_are_read_without_running_the_config(tmp_path, text) -> None:
    wrapper = "optim_wrapper = dict(opt_level='O1', loss_scale={'init_scale': 4})"
    (tmp_path / "config.py").write_text(f"raise SystemExit\ntrain_dataloader = {text}\n{wrapper}\n")
    assert logs.settings(tmp_path) == logs.Settings(4, "O1", None)
    (tmp_path / "config.py").write_text("optim_wrapper = dict(opt_level='O2', loss_scale='dynamic')\n")
    assert logs.settings(tmp_path) == logs.Settings(None, "O2", "dynamic")


def test_folder_without_a_run(tmp_path, capsys) -> None:
    assert main(["summary", str(tmp_path)]) == 2
    assert "no *.log.json" in capsys.readouterr().err


def test_nothing_heavy_is_imported(work_dir) -> None:
    program = (
        "import sys; from fcos_train.cli.main import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'numpy', 'mmengine', 'mmcv', 'mmdet'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "summary", str(work_dir)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
