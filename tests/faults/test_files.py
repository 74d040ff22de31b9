"""Files: kills at every moment of a checkpoint, damage, full disks, folders that vanish. One row per fault."""

from __future__ import annotations

import logging
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmcv_overrides import run_folder
from mmcv_overrides.checkpoint import load, newest_readable
from mmcv_overrides.errors import UserError
from mmcv_overrides.loop import ResumableEpochLoop
from tests.support import toy_forks
from tests.support.same_state import differs
from tests.support.toy_forks import ITERS

BY_STEP = dict(by_epoch=False, interval=3, max_keep_ckpts=2)
BY_EPOCH = dict(interval=1, max_keep_ckpts=2)


@pytest.fixture(scope="module", autouse=True)
def _loop():
    from mmengine.registry import LOOPS

    LOOPS.register_module(name="ResumableEpochLoop", module=ResumableEpochLoop, force=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """Undisturbed runs."""
    root = tmp_path_factory.mktemp("whole")
    assert toy_forks.train(root / "epoch", **BY_EPOCH) == 0
    assert toy_forks.train(root / "step", **BY_STEP) == 0
    return {"epoch": root / "epoch", "step": root / "step"}


@dataclass(frozen=True)
class Row:
    """A fault; what must hold: the status it ends with, and the most iterations that the resumed run repeats."""

    fault: str
    saves: str = "epoch"
    status: int = -9
    says: str = ""

    def __str__(self) -> str:
        return f"{self.fault}, saved by {self.saves}"


# Beside a kill at a step: at each system call that makes a checkpoint, its links and its deletion permanent.
KILLS = [
    Row("step 11 KILL", "step"),
    Row("validation 4 KILL"),
    Row("fsync 6 KILL"),
    Row("replace 9 KILL", "step"),
    Row("remove 1 KILL", "step"),
]
MORE_KILLS = (
    [Row(f"step {step} KILL", "step") for step in (1, 4, 8, 16)]
    + [Row(f"validation {number} KILL") for number in (1, 3)]
    + [
        Row("validated 2 KILL"),
        Row("validated 4 KILL"),
        Row("validation 2 KILL"),
        Row("symlink 2 KILL"),
        Row("validation 3 KILL", "step"),
        Row("validation 4 KILL", "step"),
    ]
    + [Row(f"fsync {number} KILL") for number in (1, 2, 3, 8, 11, 17)]
    + [Row(f"replace {number} KILL") for number in (1, 2, 3, 4, 5, 7, 12)]
    + [Row(f"symlink {number} KILL") for number in (1, 4)]
    + [Row(f"remove {number} KILL") for number in (1, 2)]
    + [Row("fsync 7 KILL", "step"), Row("step 12 KILL", "step")]
)


def _slow(rows: list[Row]) -> list:
    return [pytest.param(row, marks=pytest.mark.slow_fault, id=str(row)) for row in rows]


@pytest.mark.parametrize("row", [*KILLS, *_slow(MORE_KILLS)], ids=str)
def test_a_kill_loses_nothing_that_was_saved(row, tmp_path, whole):
    options = BY_EPOCH if row.saves == "epoch" else BY_STEP
    folder = tmp_path / "run"
    assert toy_forks.train(folder, row.fault, **options) == row.status, (tmp_path / "run.txt").read_text()[-3000:]
    newest = newest_readable(folder)
    assert toy_forks.train(folder, resume=newest is not None, **options) == 0, (tmp_path / "run.txt").read_text()[
        -3000:
    ]
    _assert_as_undisturbed(folder, whole[row.saves])


def _assert_as_undisturbed(folder: Path, whole: Path) -> None:
    """The same files, the same state, the same best checkpoint, every validation done, nothing left over."""
    names = {"epoch": [p.name for p in folder.glob("*.pth")], "whole": [p.name for p in whole.glob("*.pth")]}
    assert sorted(names["epoch"]) == sorted(names["whole"])
    assert not list(folder.glob(".*.saving"))
    assert os.readlink(folder / "latest.pth") == os.readlink(whole / "latest.pth")
    for name in names["whole"]:
        if not name.startswith("best"):
            assert differs(folder / name, whole / name) == ""
    best = [
        load(
            path / "best_mAP_epoch_4.pth" if (path / "best_mAP_epoch_4.pth").exists() else path / "best_mAP_iter_16.pth"
        )
        for path in (folder, whole)
    ]
    assert best[0]["meta"]["iter"] == best[1]["meta"]["iter"] == ITERS
    assert all(v.equal(best[1]["state_dict"][k]) for k, v in best[0]["state_dict"].items())
    record = run_folder.read_record(folder)
    assert record is not None and record.validated == [4, 8, 12, 16]


# What a run does when the operating system refuses: state that it cannot do without ends it with one line.
REFUSALS = [
    Row(f"{moment} {fault}", "epoch", 2, says)
    for moment in ("fsync 3", "fsync 8", "replace 3")
    for fault, says in (("ENOSPC", "No space left"), ("EIO", "Input/output error"))
] + [
    Row("fsync 5 EDQUOT", status=2, says="quota exceeded"),
    Row("replace 4 EROFS", status=2, says="Read-only file system"),
    Row("fsync 22 ENOSPC", status=2, says="No space left"),
]


@pytest.mark.parametrize(
    "row", [*REFUSALS[::4], *_slow([row for row in REFUSALS if row not in REFUSALS[::4]])], ids=str
)
def test_a_refused_write_is_one_line_and_leaves_the_older_files_whole(row, tmp_path, whole):
    folder, log = tmp_path / "run", tmp_path / "run.txt"
    status = toy_forks.train(folder, row.fault, **BY_EPOCH)
    text = log.read_text()
    assert status == row.status and "Traceback" not in text, text[-3000:]
    assert text.count(row.says) == 1 and text.rstrip().splitlines()[-1].startswith("error: cannot write")
    assert not list(folder.glob(".*.saving")) and not list(folder.glob(".*.tmp"))
    assert all(load(path) for path in folder.glob("*.pth"))
    assert toy_forks.train(folder, resume=newest_readable(folder) is not None, **BY_EPOCH) == 0
    _assert_as_undisturbed(folder, whole["epoch"])


def test_a_removed_work_folder_is_made_again_and_training_goes_on(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "run.txt"
    assert toy_forks.train(folder, "step 6 REMOVE", **BY_EPOCH) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert "Traceback" not in text and text.count("was removed or emptied during the training") == 1
    record = run_folder.read_record(folder)
    assert record is not None and record.validated == [4, 8, 12, 16]
    found = newest_readable(folder)
    assert found is not None and load(found)["meta"]["iter"] == ITERS


DAMAGES = {
    "cut to a half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "all zeros": lambda data: bytes(len(data)),
    "zeros in the second half": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@pytest.fixture
def folder(tmp_path, whole) -> Path:
    """A copy of an undisturbed run."""
    return Path(shutil.copytree(whole["epoch"], tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_damaged_newest_checkpoint_is_passed_over(damage, folder, caplog):
    newest = folder / "epoch_4.pth"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    assert newest_readable(folder, logging.getLogger("newest")) == folder / "epoch_3.pth"
    assert "skipped epoch_4.pth" in caplog.text


def test_every_flipped_bit_is_noticed_or_harmless(folder):
    newest, drawn = folder / "epoch_4.pth", random.Random(0)
    data, state = newest.read_bytes(), load(newest)
    unseen = 0
    for _ in range(60):
        place, bit = drawn.randrange(len(data)), 1 << drawn.randrange(8)
        newest.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        try:
            found = load(newest)
        except UserError:
            continue
        unseen += 1  # in the padding of the archive, or in a field that nobody reads
        assert all(v.equal(state["state_dict"][k]) for k, v in found["state_dict"].items())
    assert unseen < 60


@pytest.mark.parametrize("name", ["latest.pth", "last_checkpoint"])
def test_a_name_of_a_file_that_is_gone_is_passed_over(name, folder):
    (folder / name).unlink()
    if name == "latest.pth":
        os.symlink("epoch_9.pth", folder / name)
    else:
        (folder / name).write_text("/nowhere/epoch_9.pth")
    assert newest_readable(folder) == folder / "epoch_4.pth"


def test_a_copy_of_a_folder_resumes_its_own_checkpoint(folder, whole):
    (folder / "epoch_4.pth").write_bytes(b"damaged")
    assert newest_readable(folder) == folder / "epoch_3.pth"
    assert (whole["epoch"] / "last_checkpoint").read_text() == str(whole["epoch"] / "epoch_4.pth")


def test_a_fresh_run_over_an_older_one_resumes_itself(tmp_path, folder):
    assert toy_forks.train(folder, "step 7 KILL", **BY_STEP) == -9
    found = newest_readable(folder)
    assert found is not None and load(found)["meta"]["iter"] in (3, 4, 6) and found.name.startswith("iter_")


def test_a_second_run_in_a_work_folder_is_refused(folder):
    ready, done = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        run_folder.hold(folder)
        os.write(ready[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        assert toy_forks.train(folder, **BY_EPOCH) == 2
        assert f"is in use by process {holder} on " in (folder.parent / "run.txt").read_text()
    finally:
        os.write(done[1], b"1")
        os.waitpid(holder, 0)
    assert toy_forks.train(folder, **BY_EPOCH) == 0
