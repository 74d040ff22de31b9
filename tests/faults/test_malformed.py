"""Malformed input, in one process: one clear message that names the place, status 2, nothing run or half written."""

import os
import shutil
from pathlib import Path

import pytest

from fcos_train.cli.main import main
from fcos_train.data.shapes import make_shapes
from tests.support.malformed import CONFIG, TRAIN, Case, Room, checkpoints, configs, data_sets, flags

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(60, func_only=True)]

GROUPS = {
    "flags": flags.CASES,
    "environment": flags.ENVIRONMENT,
    "annotations": data_sets.CASES,
    "configs": configs.CASES,
    "images": data_sets.IMAGE_CASES,
    "checkpoints": checkpoints.CASES,
}
# No refused command may leave one; a data set's cleaned annotations are complete, and stay.
RESULTS = ("*.pth", "*.onnx", "*.saving", "*.part", "*.jpg", "last_checkpoint")


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """A data set of 8 + 4 small images."""
    return make_shapes(tmp_path_factory.mktemp("few"), train=8, val=4, size=(160, 128), seed=0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, few) -> Path:
    """A checkpoint after one step."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", CONFIG, "--data-path", str(few), "--work-dir", str(folder), *TRAIN]) == 0
    return folder / "iter_1.pth"


@pytest.fixture
def room(tmp_path, few, trained) -> Room:
    return Room(tmp_path, few, trained, shutil.copytree)


def test_there_are_enough_cases():
    """As many as were tried by hand in each group, and their names differ."""
    sizes = {name: len(cases) for name, cases in GROUPS.items()}
    least = {"flags": 61, "environment": 4, "annotations": 42, "configs": 38, "images": 12, "checkpoints": 43}
    assert all(sizes[name] >= number for name, number in least.items()), sizes
    names = [case.name for cases in GROUPS.values() for case in cases]
    assert sum(sizes.values()) >= 200 and len(set(names)) == len(names)


def _parameter(case: Case):
    return pytest.param(case, id=case.name, marks=[pytest.mark.slow_fault] if case.slow else [])


@pytest.mark.parametrize("case", [_parameter(case) for cases in GROUPS.values() for case in cases])
def test_malformed(case: Case, room: Room, monkeypatch, capsys):
    for key, value in case.environment.items():
        monkeypatch.setenv(key, value)
    words = case.command(room)
    capsys.readouterr()
    before, folder = dict(os.environ), os.getcwd()
    status = main(words)
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error")]
    assert status == case.status, said.out[-2000:] + said.err
    assert "Traceback" not in said.out + said.err
    assert not room.marker.exists(), "code of the file has run"
    assert (dict(os.environ), os.getcwd()) == (before, folder), "the process is not as it was"
    if case.status:
        (error,) = errors
        message = said.err[said.err.index(error) :]
        assert all(text in message for text in case.says), message
        written = [str(path) for pattern in RESULTS for path in (room.folder / "w").rglob(pattern)]
        assert not written
    else:
        assert not errors and all(text in said.out for text in case.says), said.out[-3000:] + said.err
