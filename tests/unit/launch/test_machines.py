"""What node 0 makes of the facts of all machines."""

import os
from pathlib import Path

import pytest

from fcos_train.launch.exchange import Place, Verdict
from fcos_train.launch.machines import judged
from fcos_train.launch.node_facts import code, marked, node_facts, software

GIB = 1 << 30
ZERO = {"address": "10.0.0.1", "facts": {"config": {"a": "1"}}, "folder": "/w", "free": 50 * GIB, "checkpoints": 0}
ONE = {**ZERO, "address": "10.0.0.2", "ahead": 0.1}
NODE1 = "node 1 (10.0.0.2)"


@pytest.mark.parametrize(
    ("zero", "one", "expected"),
    [
        ({}, {}, Verdict()),
        ({"faults": ["node 0 (10.0.0.1): bad"]}, {"facts": {}}, Verdict(("node 0 (10.0.0.1): bad",))),
        ({}, {"facts": {}}, Verdict((
            f"{NODE1}: only node 0 was given the flags of a training, after --: give all nodes the same",
        ))),
        ({"facts": {}}, {}, Verdict((
            f"{NODE1}: only {NODE1} was given the flags of a training, after --: give all nodes the same",
        ))),
        ({}, {"ahead": -7.2}, Verdict(notes=(
            f"{NODE1}: its clock is 7 s behind that of node 0, so times in logs differ: synchronise them (NTP)",
        ))),
        ({"free": 50 << 20}, {"free": 50 << 20}, Verdict(
            ("node 0 (10.0.0.1): 50 MiB are free for /w: make room, or give another --work-dir",),
            (f"{NODE1}: 50 MiB are free for /w: make room, or give another --work-dir",),
        )),
        ({"free": GIB}, {}, Verdict(notes=(
            "node 0 (10.0.0.1): 1024 MiB are free for /w: make room, or give another --work-dir",
        ))),
        ({}, {"marker": "/no/such/file"}, Verdict(notes=(
            f"work dir /w: not shared with {NODE1}; checkpoints and logs are on node 0",
        ))),
        ({"resume": True, "checkpoints": 2}, {"marker": "/no/such/file"}, Verdict((
            f"{NODE1}: /w has no checkpoint for --resume: share the work dir of node 0, or copy it there",
        ))),
        ({"resume": True, "checkpoints": 2}, {"marker": "/no/such/file", "checkpoints": 2}, Verdict(notes=(
            f"work dir /w: not shared with {NODE1}; checkpoints and logs are on node 0",
        ))),
        ({"resume": True, "checkpoints": 2}, {"marker": __file__}, Verdict(notes=(
            f"work dir /w: node 0 and {NODE1} share it",
        ))),
    ],
)  # fmt: skip
def test_the_verdict(zero, one, expected) -> None:
    assert judged({0: {**ZERO, **zero}, 1: {**ONE, **one}}) == expected


def test_the_file_at_the_work_dir_is_removed_again(tmp_path) -> None:
    with marked(1, {"folder": str(tmp_path / "a" / "b"), "faults": [], "address": "x"}) as said:
        assert Path(said["marker"]).parent == tmp_path and Path(said["marker"]).exists()
    assert list(tmp_path.iterdir()) == []
    if os.path.isdir("/proc/1"):
        with marked(1, {"folder": "/proc/1/w", "faults": [], "address": "x"}) as said:
            (fault,) = said["faults"]
            assert fault.startswith("node 1 (x): the work dir cannot be written (/proc/1: ")


def test_software_and_code_of_this_machine() -> None:
    found = software()
    assert {"fcos-train", "python", "torch", "mmengine", "mmcv", "mmdet", "numpy"} <= set(found)
    assert found["python"].count(".") == 1
    sums = code()
    assert {"fcos_train/__init__.py", "mmcv_overrides/network.py"} <= set(sums)
    assert all(len(value) == 8 for value in sums.values())


def test_a_machine_without_a_training_tells_its_faults_in_one_line() -> None:
    place = Place(2, 1, "127.0.0.1", "127.0.0.1", 23333, 1)
    said = node_facts(place, 2, None, ["two\n  lines"])
    assert said["faults"] == ["node 1 (127.0.0.1): two lines"]
    assert said["facts"]["flags"] == {"--nnodes": "2", "--nproc": "2"} and set(said["facts"]) == {
        "flags", "software", "code of FCOS-Train",
    }  # fmt: skip
