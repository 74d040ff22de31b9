"""Writing: plain content, and the old file intact whatever happens."""

import enum
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter, OrderedDict, deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint import writing
from mmcv_overrides.checkpoint.mmengine_functions import is_local, save_checkpoint
from mmcv_overrides.errors import UserError


class Color(enum.Enum):
    RED = 3


Point = namedtuple("Point", "x y")


def test_everything_mmengine_stores_is_read_back_by_stock_torch(tmp_path):
    history = HistoryBuffer([0.1, 0.2], [1, 2], max_length=7)
    shared = torch.nn.Parameter(torch.arange(4.0))
    weights = OrderedDict(a=shared, b=shared)
    weights._metadata = OrderedDict({"": {"version": 2}})
    meta = {
        "f": np.float32(0.5),
        "i": np.int64(7),
        "u": np.array([1, 65535], dtype=np.uint16),
        "big": np.arange(6, dtype=">f8").reshape(2, 3),
        "text": np.array(["a"]),
        "set": {3, 1, 2},
        "path": Path("a/b"),
        "tuple": (1, (2, "x")),
        "point": Point(1, 2),
        "enum": Color.RED,
        "queue": deque([1, 2]),
        "cfg": Config(dict(a=dict(b=1)))._cfg_dict,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "none": None,
        "key": {np.int32(4): 1},
        "count": Counter("aab"),
    }
    path = tmp_path / "a.pth"
    checkpoint.save({"state_dict": weights, "meta": meta, "hub": {"loss": history}}, path)
    stock = torch.load(path, weights_only=True)  # no allow-list
    assert torch.equal(stock["hub"]["loss"]["log"], torch.tensor([0.1, 0.2], dtype=torch.float64))
    found = checkpoint.load(path)
    m = found["meta"]
    assert (m["f"], m["i"], m["path"], m["enum"], m["none"]) == (0.5, 7, "a/b", 3, None)
    assert m["u"].tolist() == [1, 65535] and m["big"].tolist() == [[0, 1, 2], [3, 4, 5]] and m["text"] == ["a"]
    assert m["set"] == [1, 2, 3] and m["tuple"] == (1, (2, "x")) and m["point"] == (1, 2) and m["queue"] == [1, 2]
    assert m["cfg"] == {"a": {"b": 1}} and m["dtype"] is torch.float16 and m["device"] == "cpu" and m["key"] == {4: 1}
    assert m["size"] == (2, 3) and m["count"] == Counter(a=2, b=1) and type(m["count"]) is Counter
    loss = found["hub"]["loss"]
    assert isinstance(loss, HistoryBuffer) and loss.max_length == 7 and loss.data[1].tolist() == [1, 2]
    assert found["state_dict"]._metadata[""] == {"version": 2}
    assert found["state_dict"]["a"].data_ptr() == found["state_dict"]["b"].data_ptr()


def test_object_without_plain_form_is_refused_with_its_place(tmp_path):
    state = {"state_dict": {}, "meta": {"hooks": [1, {"f": lambda: 0}]}}
    with pytest.raises(UserError, match=r"checkpoint\['meta'\]\['hooks'\]\[1\]\['f'\]: builtins.function"):
        checkpoint.save(state, tmp_path / "a.pth")
    loop = []
    loop.append(loop)
    with pytest.raises(UserError, match="contains itself"):
        checkpoint.save({"state_dict": {}, "x": loop}, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bare", [True, False])
def test_non_finite_weights_are_never_written(tmp_path, bad, bare):
    path = tmp_path / "a.pth"
    good = {"conv.weight": torch.ones(3), "steps": torch.tensor(4)}
    checkpoint.save(good if bare else {"state_dict": good}, path)
    before = path.read_bytes()
    worse = {**good, "conv.weight": torch.tensor([1.0, bad, 1.0])}
    with pytest.raises(checkpoint.NonFiniteWeights, match="conv.weight"):
        checkpoint.save(worse if bare else {"state_dict": worse, "ema": 1}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.pth"]


def test_mode_of_the_file_follows_umask(tmp_path):
    old = os.umask(0o022)
    try:
        checkpoint.save({"w": torch.ones(1)}, tmp_path / "deep" / "a.pth")
    finally:
        os.umask(old)
    assert (tmp_path / "deep" / "a.pth").stat().st_mode & 0o777 == 0o644


def _old_file(folder):
    path = folder / "epoch_1.pth"
    checkpoint.save({"state_dict": {"w": torch.zeros(10)}}, path)
    return path, path.read_bytes()


def _check_intact(path, before):
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


BIG = {"state_dict": {"w": torch.zeros(1_000_000)}}


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"may not mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("noticed", ["before", "while writing"])
def test_disk_full_on_a_real_small_disk(tiny_disk, monkeypatch, noticed):
    path, before = _old_file(tiny_disk)
    if noticed == "while writing":
        monkeypatch.setattr(writing, "_check_space", lambda *_: None)
    with pytest.raises(UserError, match=r"No space left.*needs 4\.0 MB, [01]\.\d MB free.*intact") as caught:
        checkpoint.save(BIG, path)
    assert str(path) in str(caught.value)
    _check_intact(path, before)


def test_file_size_limit(tmp_path):
    """Needs no rights: the system refuses the write in the middle (EFBIG)."""
    path, before = _old_file(tmp_path)
    code = f"""
import resource, torch
from mmcv_overrides import checkpoint
from mmcv_overrides.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (500000, 500000))
try:
    checkpoint.save({{"state_dict": {{"w": torch.zeros(1_000_000)}}}}, {str(path)!r})
except UserError as error:
    print("refused:", error)
"""
    assert resource.RLIMIT_FSIZE is not None
    root = Path(checkpoint.__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "refused: cannot write checkpoint" in done.stdout and "File too large" in done.stdout
    _check_intact(path, before)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EACCES, "work_dir that you may write to"),
        (errno.EIO, "Input/output error"),
        (errno.EDQUOT, "MB free"),
    ],
)
def test_errors_of_the_system(tmp_path, monkeypatch, code, says):
    path, before = _old_file(tmp_path)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=says):
        checkpoint.save({"state_dict": {"w": torch.ones(1)}}, path)
    monkeypatch.undo()
    _check_intact(path, before)


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    path, before = _old_file(tmp_path)

    def interrupt(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"w": torch.ones(1)}, path)
    _check_intact(path, before)


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    path, before = _old_file(tmp_path)
    for run in ("a1", "b2"):
        (tmp_path / f".epoch_2.pth.0123.{run}{writing.TEMP_SUFFIX}").write_bytes(b"half")
    assert writing.remove_leftovers(tmp_path, ["a1", "c3"]) == [".epoch_2.pth.0123.a1.saving"]
    assert (tmp_path / ".epoch_2.pth.0123.b2.saving").is_file()  # somebody else may be writing it
    (tmp_path / ".epoch_2.pth.0123.b2.saving").unlink()
    _check_intact(path, before)


def test_a_disk_that_reports_nothing_free_is_tried(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    checkpoint.save(BIG, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["state_dict"]["w"].shape == (1_000_000,)


def test_upstream_signature_writes_local_files_and_leaves_remote_ones(tmp_path, monkeypatch):
    from mmcv_overrides.checkpoint import mmengine_functions as loaders

    save_checkpoint({"w": torch.ones(2)}, str(tmp_path / "a.pth"))
    assert checkpoint.load(tmp_path / "a.pth")["w"].sum() == 2
    assert (
        is_local("work/a.pth")
        and is_local("a.pth", dict(backend="disk"))
        and is_local("a.pth", None, dict(backend="local"))
    )
    assert not is_local("pavi://a.pth") and not is_local("s3://bucket/a.pth")
    calls = []
    monkeypatch.setattr(loaders, "_upstream_save", lambda *args: calls.append(args))
    save_checkpoint({"w": np.float32(1)}, "s3://bucket/a.pth")
    assert calls == [({"w": 1.0}, "s3://bucket/a.pth", None, None)]
