"""Which folder a run takes."""

import json
import os

import pytest

from fcos_train.engine import work_dir
from mmcv_overrides import run_folder
from mmcv_overrides.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_is_held():
    yield
    for folder in list(run_folder._held):
        run_folder.release(folder)


def a_run(folder, started="2026-01-01T00:00:00+00:00", files=("epoch_1.pth", "latest.pth")):
    """A folder as a finished training leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"run": folder.name, "started": started, "lineage": [[folder.name, None]], "checkpoints": None}
    (folder / "run.json").write_text(json.dumps(record))
    for name in files:
        (folder / name).write_text("old")
    return folder


def claim(wanted, given=True, resume=None, overwrite=False):
    """The folder's name and all lines; given up at once."""
    folder, lines = work_dir.claim(wanted, given, resume, overwrite)
    assert lines[0].startswith(f"work dir: {folder}")
    run_folder.release(folder)
    return folder.name, "\n".join(lines)


def test_a_new_run_takes_a_folder_without_a_run(tmp_path):
    assert claim(tmp_path / "x") == ("x", f"work dir: {tmp_path / 'x'}")
    (tmp_path / "x" / "20260101_120000.log").write_text("a start that failed")
    assert claim(tmp_path / "x")[0] == "x"
    a_run(tmp_path / "x")
    name, lines = claim(tmp_path / "x")
    assert name == "x-2" and "x holds an earlier run. --resume continues a run, --overwrite replaces it" in lines
    (tmp_path / "x-2" / "iter_7.pth").touch()  # of an earlier version, without run.json
    assert claim(tmp_path / "x", given=False)[0] == "x-3"


def test_a_folder_in_use_is_passed_over_or_refused(tmp_path):
    assert run_folder.hold(tmp_path / "x")
    name, lines = claim(tmp_path / "x")
    assert name == "x-2" and "x is in use by another run of this process" in lines
    for how in (dict(overwrite=True), dict(resume="auto")):
        with pytest.raises(UserError, match="x is in use"):
            claim(tmp_path / "x", **how)


def test_resume_takes_the_run_that_was_started_last(tmp_path):
    a_run(tmp_path / "x", "2026-01-03T00:00:00+00:00")
    a_run(tmp_path / "x-2", "2026-01-02T00:00:00+00:00")
    a_run(tmp_path / "x-10", "2026-01-04T00:00:00+00:00")
    a_run(tmp_path / "x-rays", "2026-01-09T00:00:00+00:00")
    assert claim(tmp_path / "x", given=False, resume="auto")[0] == "x-10"
    name, lines = claim(tmp_path / "x", given=True, resume="auto")  # named, so obeyed
    assert name == "x" and f"--work-dir {tmp_path / 'x-10'} --resume would continue that one" in lines
    assert claim(tmp_path / "new", given=False, resume="auto")[0] == "new"


def test_resume_from_a_file_stays_in_its_folder_or_makes_a_new_one(tmp_path):
    two = a_run(tmp_path / "x-2")
    a_run(tmp_path / "x")
    assert claim(tmp_path / "x", given=False, resume=str(two / "latest.pth"))[0] == "x-2"
    other = a_run(tmp_path / "other")
    assert claim(tmp_path / "x", given=False, resume=str(other / "latest.pth"))[0] == "x-3"


def test_overwrite_removes_what_a_run_leaves_and_nothing_else(tmp_path):
    folder = a_run(
        tmp_path / "x",
        files=("epoch_1.pth", "best_bbox_mAP_epoch_1.pth", "20260101_120000.log", "20260101_120000.log.json"),
    )
    (folder / "latest.pth").symlink_to("epoch_1.pth")
    for place in ("20260101_120000", "tb/20260101", "tb/vis_data", "eval", "data", "mine"):
        (folder / place).mkdir(parents=True)
    old = [
        "tb/20260101/events.out.tfevents.1",
        "tb/vis_data/scalars.json",
        "eval/detections.bbox.json",
        "eval/20260101_130000.log",
        ".epoch_2.pth.0.r.saving",
        "last_checkpoint",
    ]
    kept = ["data/instances_train.json", "mine/epoch_1.pth", "notes.log", "model.pth", "config.py", "tb/notes.txt"]
    for name in old + kept:
        (folder / name).touch()
    assert claim(folder, overwrite=True) == ("x", f"work dir: {folder} (--overwrite: the run in it is replaced)")
    with pytest.raises(UserError, match="--overwrite would remove .*latest.pth, which this training starts from"):
        work_dir.stale_files(folder, str(folder / "latest.pth"))
    work_dir.ReplaceRunHook(work_dir.stale_files(folder, None)).before_train(None)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == sorted([".run.lock", *kept])


def test_an_evaluation_never_writes_into_a_training(tmp_path):
    folder = a_run(tmp_path / "x")
    assert work_dir.claim_evaluation(folder)[0] == folder / "eval"
    second, lines = work_dir.claim_evaluation(folder / "eval")
    assert second == folder / "eval-2" and lines == [f"work dir: {second} ({folder / 'eval'} is in use)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be used: Permission denied"):
        claim(tmp_path / "x")


def test_a_work_dir_that_is_a_file(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=r"work dir .*x cannot be used: File exists"):
        claim(tmp_path / "x")
