"""A run owns its folder: lock, record, and the checkpoints that count for a resume."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from mmcv_overrides import checkpoint, run_folder, seams
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import create, unguessable
from tests.support.toy_runner import checkpoint_names, toy_runner

HOLDER = """
import pathlib, sys
from mmcv_overrides import run_folder
folder = pathlib.Path(sys.argv[1])
run_folder.hold(folder)
run_folder.begin(folder)
print("held", flush=True)
sys.stdin.read()
"""
FORKING_HOLDER = """
import os, pathlib, sys, time
from mmcv_overrides import run_folder
run_folder.hold(pathlib.Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module", autouse=True)
def _overrides():
    seams.apply(checkpoint.OVERRIDES)


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    toy_runner(tmp_path / "a", epochs=1).train()
    killed = json.loads((tmp_path / "a" / "run.json").read_text())["run"]
    (tmp_path / "a" / f".epoch_2.pth.0123456789abcdef.{killed}.saving").write_bytes(b"half")
    (tmp_path / "a" / ".epoch_2.pth.0123456789abcdef.another.saving").write_bytes(b"half")
    toy_runner(tmp_path / "a", epochs=2, resume=True).train()
    assert checkpoint_names(tmp_path / "a") == [
        ".epoch_2.pth.0123456789abcdef.another.saving",
        "epoch_1.pth",
        "epoch_2.pth",
        "latest.pth",
    ]


def test_a_folder_used_twice_resumes_the_second_run(tmp_path):
    """As mmengine does; the older run has more iterations."""
    toy_runner(tmp_path / "a", epochs=4).train()
    toy_runner(tmp_path / "a", epochs=2).train()
    assert checkpoint.newest_readable(tmp_path / "a") == tmp_path / "a" / "epoch_2.pth"
    resumed = toy_runner(tmp_path / "a", epochs=3, resume=True)
    resumed.train()
    assert resumed.iter == 12
    lineage = json.loads((tmp_path / "a" / "run.json").read_text())["lineage"]
    assert [until for _, until in lineage] == [8, None] and lineage[0][0] != lineage[1][0]


def test_a_run_that_went_back_does_not_count_what_came_after(tmp_path, caplog):
    log = logging.getLogger("went back")
    toy_runner(tmp_path / "a", epochs=4).train()
    again = toy_runner(tmp_path / "a", epochs=3, resume=True, load_from=str(tmp_path / "a" / "epoch_2.pth"))
    again.train()
    assert again.iter == 12
    (tmp_path / "a" / "epoch_3.pth").unlink()
    found = checkpoint.newest_readable(tmp_path / "a", log)
    assert found == tmp_path / "a" / "epoch_2.pth"  # not epoch_4 of the run before
    assert "skipped epoch_4.pth: it is of another run" in caplog.text


def test_a_copied_folder_resumes_from_its_own_files(tmp_path):
    toy_runner(tmp_path / "a", epochs=2).train()
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True)
    (tmp_path / "b" / "epoch_2.pth").write_bytes(b"damaged")
    assert checkpoint.newest_readable(tmp_path / "b") == tmp_path / "b" / "epoch_1.pth"
    (tmp_path / "b" / "run.json").unlink()
    (tmp_path / "b" / "last_checkpoint").write_text(str(tmp_path / "a" / "epoch_2.pth"))  # as mmengine writes it
    assert checkpoint.newest_readable(tmp_path / "b") == tmp_path / "b" / "epoch_1.pth"


def test_a_folder_used_twice_resumes_the_later_run(tmp_path, caplog):
    """Four epochs, then two of a new training: ``last_checkpoint`` decides, not the number of iterations."""
    toy_runner(tmp_path / "a", epochs=4).train()
    toy_runner(tmp_path / "a", epochs=2).train()
    log = logging.getLogger("used twice")
    assert checkpoint.newest_readable(tmp_path / "a", log) == tmp_path / "a" / "epoch_2.pth"
    assert "skipped epoch_4.pth: it is of another run" in caplog.text
    resumed = toy_runner(tmp_path / "a", epochs=3, resume=True)
    resumed.train()
    assert resumed.iter == 12


@pytest.mark.parametrize("epoch", [2, 5])
def test_what_plain_mmengine_trained_since_comes_first(tmp_path, epoch):
    """It neither knows ``run.json`` nor moves ``latest.pth``; a run of its own or one that went on from ours."""
    toy_runner(tmp_path / "a", epochs=4).train()
    plain = torch.load(tmp_path / "a" / "epoch_4.pth", weights_only=False)
    plain["meta"] |= {"epoch": epoch, "iter": 4 * epoch}
    del plain["meta"]["run"]
    path = tmp_path / "a" / f"epoch_{epoch}.pth"
    torch.save(plain, path)
    os.utime(path, (2e9, 2e9))
    (tmp_path / "a" / "last_checkpoint").write_text(str(path))
    assert checkpoint.newest_readable(tmp_path / "a") == path
    resumed = toy_runner(tmp_path / "a", epochs=6, resume=True)
    resumed.train()
    assert (resumed.epoch, resumed.iter) == (6, 24)
    assert checkpoint.newest_readable(tmp_path / "a") == tmp_path / "a" / "epoch_6.pth"


def test_a_folder_in_use_is_refused(tmp_path):
    """A real other process holds the lock."""
    folder = tmp_path / "a"
    program = (
        "import sys, pathlib\nfrom mmcv_overrides import run_folder as r\np = pathlib.Path(sys.argv[1])\n"
        "r.hold(p); r.begin(p)\nprint('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is in use by process {other.pid} on "):
            toy_runner(folder, epochs=1).train()
        other.kill()
    toy_runner(folder, epochs=1).train()  # the lock ended with its process
    assert checkpoint_names(folder) == ["epoch_1.pth", "latest.pth"]


def test_a_lock_does_not_pass_to_forked_children(tmp_path):
    """Loader workers are forked; one that outlives a killed run must not keep its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING_HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        child = int(other.stdout.readline())
        other.kill()
        other.wait()
        try:
            assert run_folder.hold(tmp_path)
        finally:
            os.kill(child, signal.SIGKILL)
            run_folder.release(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("[]", None),
        ("[" * 100000, None),
        ('{"run": "a"}', None),
        ('{"run": "a", "lineage": [["a", "x"]]}', None),
        ('{"run": "a", "lineage": [["b", 6], ["a", null]]}', run_folder.Record("a", lineage=[("b", 6), ("a", None)])),
    ],
)
def test_a_damaged_record_counts_as_none(tmp_path, text, found):
    (tmp_path / "run.json").write_text(text)
    assert run_folder.read_record(tmp_path) == found


def test_what_a_record_owns():
    record = run_folder.Record("c", lineage=[("a", 6), ("", 9), ("c", None)])
    owned = {("a", 6): True, ("a", 7): False, ("", 9): True, ("", 10): False, ("c", 999): True, ("d", 1): False}
    assert {key: record.owns(*key) for key in owned} == owned
    assert record.continued("c", 12) == [("a", 6), ("", 9), ("c", 12)]
    assert record.continued("a", 3) == [("a", 3)]
    assert record.continued("d", 3) == [("d", 3)]


def test_temporary_files_cannot_be_foreseen(tmp_path):
    """A link that somebody put in the way is never written through."""
    names = {unguessable(tmp_path / "a.pth", ".saving") for _ in range(100)}
    assert len(names) == 100 and all(name.name.startswith(".a.pth.") for name in names)
    victim = tmp_path / "victim"
    victim.write_text("as before")
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(FileExistsError):
        create(tmp_path / "link")
    assert victim.read_text() == "as before"
