"""Files of real trainings: full disks, folders that vanish, weights that are not numbers. One row per fault."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fcos_train.data.shapes import make_shapes
from mmcv_overrides.checkpoint import load, newest_readable
from tests.support import commands, forked
from tests.support.same_state import differs

SCORES = "0.1 0.5 0.3 0.9"
MEGABYTES = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("files") / "shapes", train=8, val=2, size=(96, 80), seed=0)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert forked.train(commands._server(), data, folder, scores=SCORES).status(120) == 0
    return folder


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_validation_that_a_kill_cut_off_is_made_up_for(data, whole, tmp_path):
    folder = tmp_path / "run"
    killed = forked.train(commands._server(), data, folder, scores=SCORES, fault="validated 4 KILL")
    assert killed.status(120) == -9
    resumed = forked.train(commands._server(), data, folder, "--resume", scores=SCORES)
    assert resumed.status(120) == 0, resumed.text[-3000:]
    assert "Epoch(val) [4]" in resumed.text
    assert sorted(p.name for p in folder.glob("*.pth")) == sorted(p.name for p in whole.glob("*.pth"))
    assert differs(folder / "epoch_4.pth", whole / "epoch_4.pth") == ""
    assert (folder / "best_bbox_mAP_epoch_4.pth").exists()
    again = forked.train(commands._server(), data, folder, "--resume", scores=SCORES)
    assert again.status(120) == 0 and "nothing to do" in again.text and "Epoch(val)" not in again.text


@dataclass(frozen=True)
class Full:
    """A disk that fills in mid-training: which epochs are saved, how it ends, and what it says how often."""

    fault: str
    words: tuple[str, ...]
    status: int
    says: dict[str, int]
    ranks: int = 1
    scores: str = SCORES

    def __str__(self) -> str:
        return f"{self.fault}, {self.ranks} ranks"


FULL = [
    pytest.param(
        Full(
            "step 3 FILL; step 7 FREE",
            ("--cfg-options", "default_hooks.checkpoint.interval=4"),
            0,
            {"the log /": 2, "the JSON log ": 2, "the files of the evaluation ": 2, "the curves of ": 1},
            scores="0.9 0 0 0",
        ),
        id="room is there again before the next checkpoint",
    ),
    pytest.param(
        Full("step 3 FILL", (), 2, {"\nerror: cannot write": 1}),
        id="the next checkpoint finds no room",
        marks=pytest.mark.slow_fault,
    ),
    pytest.param(
        Full("step 3 FILL", (), 1, {"\nerror: cannot write": 1, "\nerror (rank 1): cannot write": 1}, ranks=2),
        id="the next checkpoint finds no room, two ranks",
        marks=pytest.mark.slow_fault,
    ),
]


@pytest.mark.parametrize("row", FULL)
def test_a_full_disk(row, data, whole, small_disk):
    folder = small_disk / "run"
    run = forked.train(
        commands._server(), data, folder, *row.words, ranks=row.ranks, scores=row.scores, fault=row.fault
    )
    status, text = run.status(180), run.text
    assert status == row.status, text[-3000:]
    assert "Traceback" not in text and "Logging error" not in text, text[-5000:]
    said = {one: text.count(one) for one in row.says}
    if status:
        assert said == row.says, text[-5000:]
    else:  # a file whose last block has room is not refused
        assert sum(said.values()) >= 3 and all(count <= row.says[one] for one, count in said.items()), text[-5000:]
    assert all(load(path) for path in folder.glob("*.pth")) and not list(folder.glob(".*.saving"))
    if row.status and row.ranks == 1:
        (small_disk / "filler").unlink()
        resumed = forked.train(commands._server(), data, folder, "--resume", scores=SCORES)
        assert resumed.status(120) == 0, resumed.text[-3000:]
    if row.ranks == 1:
        newest = newest_readable(folder)
        assert newest is not None
        if row.scores == SCORES:
            assert differs(newest, whole / "epoch_4.pth") == ""
        else:  # the best score is another
            weights = [load(path)["state_dict"] for path in (newest, whole / "epoch_4.pth")]
            assert all(value.equal(weights[1][key]) for key, value in weights[0].items())
        lines = [json.loads(line) for path in folder.glob("*.log.json") for line in path.read_text().splitlines()]
        assert lines[-1]["mode"] == "val" or row.status


@pytest.mark.slow_fault
def test_a_removed_work_dir_is_made_again(data, tmp_path):
    run = forked.train(commands._server(), data, tmp_path / "run", scores=SCORES, fault="step 3 REMOVE")
    assert run.status(120) == 0, run.text[-3000:]
    assert "Traceback" not in run.text and run.text.count("was removed or emptied") == 1
    assert newest_readable(tmp_path / "run") == tmp_path / "run" / "epoch_4.pth"
    assert "Epoch [4][2/2]" in "".join(path.read_text() for path in (tmp_path / "run").glob("*.log"))


@pytest.mark.parametrize(
    ("says", "spoil"), [("has only nan", lambda t: t * float("nan")), ("is complex", lambda t: t + 0j)]
)
@pytest.mark.parametrize(
    "verb",
    [
        "train --resume",
        pytest.param("train --load-from", marks=pytest.mark.slow_fault),
        pytest.param("eval", marks=pytest.mark.slow_fault),
        pytest.param("demo", marks=pytest.mark.slow_fault),
        pytest.param("export", marks=pytest.mark.slow_fault),
    ],
)
def test_weights_that_are_not_numbers_are_refused(verb, says, spoil, data, whole, tmp_path):
    state = torch.load(whole / "epoch_4.pth", weights_only=True)
    weights = state["state_dict"]
    floats = [key for key, value in weights.items() if value.is_floating_point()]
    weights.update({key: spoil(weights[key]) for key in floats})
    broken = tmp_path / "broken.pth"
    torch.save(state, broken)
    config, image = data.parent / "tiny_with_faults.py", next(data.rglob("*.jpg"))
    words = {
        "train --resume": ["train", config, "--resume", broken],
        "train --load-from": ["train", config, "--load-from", broken],
        "eval": ["eval", config, broken],
        "demo": ["demo", broken, "--img", image],
        "export": ["export", config, broken, "--output-file", tmp_path / "x.onnx"],
    }[verb]
    extra = ["--data-path", data, "--device", "cpu", "--workers", "0"] if verb.split()[0] in ("train", "eval") else []
    extra += ["--work-dir", tmp_path / "work"] if verb.startswith("train") else []
    done = commands.run(*words, *extra)
    assert done.returncode == 2, done.stderr[-3000:]
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: ") and says in last and floats[0] in last and "broken.pth" in last
    assert "Traceback" not in done.stderr
