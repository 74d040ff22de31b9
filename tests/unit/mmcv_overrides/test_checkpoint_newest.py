"""Which checkpoint a run resumes from."""

import logging
import os

import pytest
import torch

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.links import point_latest
from mmcv_overrides.errors import UserError


def _make(folder, name, iteration, epoch, mtime=None):
    path = folder / name
    checkpoint.save(
        {
            "state_dict": {"w": torch.full((500,), float(iteration))},
            "meta": {"iter": iteration, "epoch": epoch},
        },
        path,
    )
    if mtime:
        os.utime(path, (mtime, mtime))
    return path


def _cut(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.WARNING)
    return logging.getLogger("newest")


def test_truncated_newest_falls_back_with_a_warning(tmp_path, log, caplog):
    paths = [_make(tmp_path, f"epoch_{n}.pth", 10 * n, n) for n in (1, 2, 10)]
    point_latest(tmp_path, "epoch_10.pth")
    assert checkpoint.newest_readable(tmp_path, log) == paths[2]
    assert caplog.text == ""
    _cut(paths[2])
    assert checkpoint.newest_readable(tmp_path, log) == paths[1]
    assert "skipped epoch_10.pth" in caplog.text and "truncated" in caplog.text
    assert checkpoint.find_latest_checkpoint(str(tmp_path)) == str(paths[1])


def test_iterations_decide_not_names_or_times(tmp_path, log):
    _make(tmp_path, "epoch_3.pth", 30, 3, mtime=2000)
    mid = _make(tmp_path, "iter_35.pth", 35, 3, mtime=1000)
    assert checkpoint.newest_readable(tmp_path, log) == mid


def test_damage_within_a_complete_zip_is_found(tmp_path, log, caplog):
    first, second = (_make(tmp_path, f"epoch_{n}.pth", n, n) for n in (1, 2))
    data = bytearray(second.read_bytes())
    at = data.find(torch.full((500,), 2.0).numpy().tobytes())
    data[at : at + 2000] = bytes(2000)
    second.write_bytes(data)
    assert checkpoint.newest_readable(tmp_path, log) == first
    assert "skipped epoch_2.pth" in caplog.text and "checksum" in caplog.text


def test_refused_and_stateless_files_are_passed_over(tmp_path, log, caplog):
    good = _make(tmp_path, "epoch_1.pth", 5, 1)
    torch.save({"meta": {"iter": 9, "epoch": 9}, "x": logging.getLogger}, tmp_path / "epoch_9.pth")
    checkpoint.save({"w": torch.ones(1)}, tmp_path / "epoch_8.pth")
    assert checkpoint.newest_readable(tmp_path, log) == good
    assert "epoch_9.pth" in caplog.text and "getLogger" in caplog.text
    assert "epoch_8.pth" in caplog.text and "load_from" in caplog.text


def test_note_of_mmengine_in_another_folder(tmp_path, log):
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    path = _make(tmp_path / "out", "epoch_1.pth", 5, 1)
    (tmp_path / "work" / "last_checkpoint").write_text(f"{path}\n")
    assert checkpoint.newest_readable(tmp_path / "work", log) == path


def test_none_and_none_readable_differ(tmp_path, log):
    assert checkpoint.newest_readable(tmp_path / "absent", log) is None
    assert checkpoint.find_latest_checkpoint(str(tmp_path)) is None
    _cut(_make(tmp_path, "epoch_1.pth", 5, 1))
    (tmp_path / "latest.pth").symlink_to("gone.pth")
    assert checkpoint.newest_readable(tmp_path, log) is None
    with pytest.raises(UserError, match="none of the checkpoints"):
        checkpoint.find_latest_checkpoint(str(tmp_path))
