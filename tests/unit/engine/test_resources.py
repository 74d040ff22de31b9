"""What the processes of a training hold: figures of the kernel, a line and a record per epoch."""

import os
import sys
from contextlib import ExitStack
from multiprocessing import get_context

import pytest

from fcos_train.engine import resources
from tests.support.commands import log_records
from tests.support.trainings import Training

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process holds")
PAGES = 64 << 20


def _hold(ready, done) -> None:
    content = bytearray(os.urandom(1)) * PAGES  # written, so that the pages are its own
    ready.set()
    done.wait(30)
    del content


def test_private_memory_and_descriptors_of_this_process_and_its_children_are_counted(tmp_path):
    before = resources.held()
    assert before.workers == 0 and before.workers_mb == 0 and before.threads >= 1
    kept = bytearray(b"x") * PAGES
    with ExitStack() as files:
        for number in range(7):
            files.enter_context((tmp_path / str(number)).open("w"))
        after = resources.held()
    assert after.main_mb - before.main_mb == pytest.approx(64, abs=4)
    assert after.files - before.files == 7
    del kept
    context = get_context("fork")
    ready, done = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(ready, done), daemon=True)
    child.start()
    assert ready.wait(30)
    assert resources.held().workers == 1 and resources.held().workers_mb == pytest.approx(64, abs=30)
    done.set()
    child.join()


def test_where_the_system_does_not_tell_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "_PROC", tmp_path)
    assert resources.held() is None


def test_each_epoch_has_a_line_and_a_record(shapes, tmp_path, capsys):
    Training(tmp_path / "run", shapes, "O0", 2, batch_size=24, max_epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if " holds " in line]
    records = log_records(tmp_path / "run", "process")
    assert [record["epoch"] for record in records] == [1, 2] and len(lines) == 2
    assert f"Epoch [2] holds {records[1]['main_mb']:.1f} MiB private memory, 0.0 MiB in 0 loader processes" in lines[1]
