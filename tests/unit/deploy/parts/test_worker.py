"""Calls into another Python: here the same one, with functions that fail in every way."""

import sys
import textwrap

import numpy as np
import pytest

from fcos_train.deploy.parts.worker import Worker, WorkerFailed
from fcos_train.deploy.parts.worker_host import packed
from mmcv_overrides.errors import UserError

SCRIPT = """
    import os, signal, sys, time
    seen = []
    def double(arrays, factor):
        print("printed by a toolkit")
        seen.append(len(arrays))
        return {"calls": len(seen), "here": os.environ.get("HERE", ""), "path": sys.path}, [a * factor for a in arrays]
    def refuse(arrays):
        raise ValueError("no such operator: GroupNorm")
    def end(arrays):
        print("about to end")
        os._exit(7)
    def crash(arrays):
        os.kill(os.getpid(), signal.SIGSEGV)
    def sleep(arrays):
        print("asleep", flush=True)
        time.sleep(60)
    CALLS = {"double": double, "refuse": refuse, "end": end, "crash": crash, "sleep": sleep}
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "calls.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_calls_keep_state_and_arrays_keep_type_and_shape(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/not/for/the/other/python")
    log = tmp_path / "log.txt"
    with Worker(sys.executable, script, "toolkit", log, {"HERE": "yes"}) as worker:
        sent = [np.arange(6, dtype=np.int32).reshape(1, 2, 3), np.float32(1.5), np.zeros((0, 4), np.uint8)]
        values, got = worker.call("double", sent, factor=2)
        assert (values["calls"], values["here"]) == (1, "yes") and "/not/for/the/other/python" not in values["path"]
        assert [(a.dtype, a.shape) for a in got] == [(np.int32, (1, 2, 3)), (np.float32, ()), (np.uint8, (0, 4))]
        assert got[0].tolist() == [[[0, 2, 4], [6, 8, 10]]] and float(got[1]) == 3.0
        with pytest.raises(WorkerFailed, match="^toolkit: no such operator: GroupNorm$") as error:
            worker.call("refuse")
        assert error.value.kind == "ValueError"
        assert worker.call("double", factor=1)[0]["calls"] == 2  # it goes on after an exception
    assert log.read_text().count("printed by a toolkit") == 2
    with pytest.raises(WorkerFailed, match="was ended before"):
        worker.call("double", factor=1)


@pytest.mark.parametrize(
    "call, message",
    [
        ("end", r"toolkit: its process ended with status 7\nabout to end"),
        ("crash", "toolkit: its process was ended by signal 11"),
        ("sleep", r"toolkit: no answer within 0.5 s\nasleep"),
    ],
)
def test_a_process_that_ends_or_hangs_is_an_error(script, call, message):
    worker = Worker(sys.executable, script, "toolkit")
    with pytest.raises(WorkerFailed, match=message):
        worker.call(call, timeout=0.5 if call == "sleep" else None)
    assert worker._process.poll() is not None


def test_a_script_or_interpreter_that_cannot_be_used(tmp_path):
    (tmp_path / "broken.py").write_text("import package_that_is_not_there\n")
    with pytest.raises(WorkerFailed, match="toolkit: No module named 'package_that_is_not_there'"):
        Worker(sys.executable, tmp_path / "broken.py", "toolkit")
    with pytest.raises(UserError, match="toolkit: .*/none cannot be started: No such file or directory"):
        Worker(tmp_path / "none", tmp_path / "broken.py", "toolkit")


def test_python_objects_are_not_sent():
    with pytest.raises(ValueError, match="Python objects"):
        packed({}, [np.array([None])])
