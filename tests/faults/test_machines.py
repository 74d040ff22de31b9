"""Several machines: network namespaces joined by a veth pair, gloo ranks in each.

The quick rows are of the check before a training, the slow ones of trainings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import EXACT, ROOT, exact, ok, run_ranks, run_script
from tests.support.faults import Process
from tests.support.namespaces import Machines

MULTI = ROOT / "test" / "train_performance_multinodes.sh"
TIMEOUT = 6  # s that machines wait for each other
FAKE_TORCH = """
import importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: "9.9.9" if name == "torch" else real(name)  # FAKE version
"""
FAKE_CODE = "import zlib; real = zlib.crc32; zlib.crc32 = lambda block: real(block) ^ 1  # FAKE: other code"
FAKE_CLOCK = "import time; real = time.time; time.time = lambda: real() + 90  # FAKE clock"


@dataclass(frozen=True)
class Row:
    """What is different on a node, and what both nodes print.

    Attributes:
        fault: name of the row. says: a part of the line.
        one: flags of the check on node 1, which take precedence. training: those of its training.
        before: Python that node 1 runs first. change: what happens to its copy of the data set.
        absent: a node that is not started. delay: s by which node 1 comes later. timeout: s to wait for each other.
        status: of the nodes. also: what one of them prints.
    """

    fault: str
    says: str
    one: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    before: str = ""
    change: str = ""
    absent: int | None = None
    delay: float = 0
    timeout: int = 60
    status: int = 2
    also: str = ""


NODE1 = "error: node 1 (10.77.0.2): "
SAME_FLAGS = "start all of them with the same flags"
HERE = "this machine has 10.77.0.2 (eth0)"
ROWS = [
    Row("machines that agree", "2 machines agree: software, code, device, config, data set, flags", status=0,
        also="fcos_tiny_shapes: node 0 and node 1 (10.77.0.2) share it\n"),
    Row("another batch size", f"{NODE1}--batch-size is 4, on node 0 it is 2: {SAME_FLAGS}\n",
        training=("--batch_size=4",)),
    Row("another seed", f"{NODE1}--seed is 1, on node 0 it is 0: {SAME_FLAGS}\n", training=("--seed=1",)),
    Row("no validation there", f"{NODE1}--no-validate is given, on node 0 it is not given: {SAME_FLAGS}\n",
        training=("--no-validate",)),
    Row("another number of ranks", f"{NODE1}--nproc is 3, on node 0 it is 2: {SAME_FLAGS}\n", one=("--nproc=3",)),
    Row("another number of nodes", f"{NODE1}--nnodes is 3, on node 0 it is 2: {SAME_FLAGS}\n", one=("--nnodes=3",)),
    Row("a machine too many", "error: node 2 (10.77.0.2): the nodes of node 0 are 0 to 1: check --nnodes and "
        "--node_rank\n",
        one=("--nnodes=3", "--node_rank=2"), before="GRACE"),
    Row("another value of the config", f"{NODE1}the config differs: optim_wrapper.optimizer.lr is 0.5, on node 0 it is "
        "0.", training=("--cfg-options", "optim_wrapper.optimizer.lr=0.5")),
    Row("other annotations", f"{NODE1}the data set differs: train annotations is 1 boxes, ", change="boxes",
        also=": copy the data set of node 0, or give the right --data_path\n"),
    Row("an image less", f"{NODE1}the data set differs: train images is 16 listed, 15 present, on node 0 it is 16 "
        "listed, 16 present: ", change="image"),
    Row("an empty data folder", f"{NODE1}data path", change="all", also=" is an empty folder\n"),
    Row("another version of torch, faked", f"{NODE1}the software differs: torch is 9.9.9, on node 0 it is ",
        before=FAKE_TORCH, also=": install the same versions on all nodes\n"),
    Row("other code, faked", f"{NODE1}the code of FCOS-Train differs: fcos_train/__init__.py is ", before=FAKE_CODE,
        also=": bring all nodes to the same commit, without local changes\n"),
    Row("a flag that does not exist", f"{NODE1}unknown flag --batchsize; did you mean --batch-size?\n",
        training=("--batchsize=4",)),
    Row("a device that is absent", f"{NODE1}device 'cuda': ", training=("--device=cuda",)),
    Row("an address of no machine here", "error: node 1 (10.77.0.9): no interface of this machine has the address "
        f"10.77.0.9 (--local_addr): {HERE}\n", one=("--local_addr=10.77.0.9",)),
    Row("the loopback as address", "error: node 1 (127.0.0.1): --local_addr=127.0.0.1 is the loopback, which no other "
        f"machine can reach: {HERE}\n", one=("--local_addr=127.0.0.1",)),
    Row("the loopback as master", f"{NODE1}--master_addr=localhost is the loopback on this machine",
        one=("--master_addr=localhost",), absent=0, timeout=2),
    Row("two machines that are node 0", "error: node 0 (10.77.0.2): --master_addr=10.77.0.1 is no address of this "
        f"machine, and node 0 is the master: correct it, or give --node_rank=1 or more; {HERE}\n",
        one=("--node_rank=0",), absent=0, timeout=2),
    Row("clocks that differ, faked", "note: node 1 (10.77.0.2): its clock is 90 s ahead of that of node 0", status=0,
        before=FAKE_CLOCK, also="2 machines agree"),
    Row("node 0 is absent", "error: node 1: node 0 has not answered at 10.77.0.1:23333 within 2 s (nothing listens "
        "there yet): start it there with --node_rank=0, or correct --master_addr and --master_port\n", absent=0,
        timeout=2, also="\nwaiting for node 0 at 10.77.0.1:23333 (1 s of 2 s); nothing listens there yet\n"),
    Row("node 1 is absent", "error: node 1: it has not come to 10.77.0.1:23333 within 2 s: start it with "
        "--node_rank=1 and --master_addr=10.77.0.1, and let firewalls pass port 23333\n", absent=1, timeout=2,
        also="\nwaiting for node 1 (1 s of 2 s); this is node 0, at 10.77.0.1:23333\n"),
    Row("node 1 comes late", "2 machines agree", delay=2.5, status=0, also="\nwaiting for node 1 (1 s of 60 s)"),
]  # fmt: skip


def changed(data: Path, change: str, folder: Path) -> Path:
    """A copy of the data set with a fault, or the data set."""
    if not change:
        return data
    copy = shutil.copytree(data, folder)
    file = copy / "annotations" / "instances_train2017.json"
    if change == "boxes":
        coco = json.loads(file.read_text())
        file.write_text(json.dumps({**coco, "annotations": coco["annotations"][:1]}))
    elif change == "image":
        next((copy / "train2017").iterdir()).unlink()
    else:
        shutil.rmtree(copy)
        copy.mkdir()
    return copy


def check(machines: Machines, row: Row, data: Path, folder: Path) -> list[tuple[int, float, str]]:
    """Run the check on both machines. Returns status, seconds and output of each."""
    lines = "import fcos_train.launch.exchange as exchange; exchange.EVERY_S = 1.0\n"
    if row.before == "GRACE":
        lines += "import fcos_train.launch.exchange_server as server; server.GRACE_S = 1.0\n"
    places = [data, changed(data, row.change, folder / "data")]
    words = []
    for node, address in enumerate(machines.addresses):
        flags = [f"--node_rank={node}", f"--local_addr={address}", f"--master_addr={machines.addresses[0]}"]
        flags += ["--nnodes=2", "--nproc=2", f"--rendezvous_timeout={row.timeout}", *(row.one if node else ())]
        training = [
            "fcos/fcos_tiny_shapes",
            f"--data_path={places[node]}",
            "--device=cpu",
            "--seed=0",
            "--batch_size=2",
        ]
        training += row.training if node else ()
        words.append(["doctor", *flags, "--", *training] if node != row.absent else [])
    before = [lines, lines + ("" if row.before == "GRACE" else row.before)]
    task = {
        "namespaces": machines.names,
        "words": words,
        "log": str(folder),
        "delays": [0, row.delay],
        "before": before,
    }
    done = ok(run_script(ROOT / "tests" / "support" / "two_nodes.py", json.dumps(task)))
    present = [node for node in (0, 1) if node != row.absent]
    ends = json.loads(done.stdout.splitlines()[-1])
    return [(*end, (folder / f"{node}.txt").read_text()) for node, end in zip(present, ends, strict=True)]


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory) -> Path:
    from fcos_train.data.shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp("data"), train=16, val=4, size=(96, 80), seed=0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault.replace(" ", "_"))
def test_machines_before_a_training(machines, row, sixteen, tmp_path) -> None:
    nodes = check(machines, row, sixteen, tmp_path)
    assert row.also in "".join(text for _, _, text in nodes)
    for status, seconds, text in nodes:
        assert status == row.status, text
        assert row.says in text
        assert text.count("error: ") == (1 if row.status else 0) and "Traceback" not in text
        assert seconds < row.timeout + 30
    assert not list((ROOT / "work_dirs").glob(".fcos-train-*")) and not list(ROOT.glob(".fcos-train-*"))


def test_the_port_is_taken(machines, sixteen, tmp_path) -> None:
    program = "import socket, time; s = socket.create_server(('', 23333)); print('ready', flush=True); time.sleep(99)"
    other = machines.start(0, [sys.executable, "-c", program], tmp_path / "other.txt")
    other.wait_for("ready")
    row = Row("", "", timeout=2)
    (zero, _, first), (one, _, second) = check(machines, row, sixteen, tmp_path)
    assert (zero, one) == (2, 2)
    assert "error: node 0 (10.77.0.1): port 23333 is in use here, or not allowed: give another --master_port" in first
    assert "error: node 1: node 0 has not answered at 10.77.0.1:23333 within 2 s" in second


def test_a_cut_link(machines, sixteen, tmp_path) -> None:
    machines.cut(0)
    (zero, _, first), (one, _, second) = check(machines, Row("", "", timeout=4), sixteen, tmp_path)
    assert (zero, one) == (2, 2)
    assert "error: node 1: it has not come to 10.77.0.1:23333 within 4 s" in first
    assert (
        "error: node 1: node 0 has not answered at 10.77.0.1:23333 within 4 s (no answer: is the machine on" in second
    )


def test_without_a_training_and_as_json(machines, tmp_path) -> None:
    words = [
        ["doctor", "--nnodes=2", f"--node_rank={node}", "--master_addr=10.77.0.1", "--rendezvous_timeout=60"]
        for node in (0, 1)
    ]
    words[1].append("--json")
    task = {"namespaces": machines.names, "words": words, "log": str(tmp_path), "delays": [0, 0], "before": ["", ""]}
    done = ok(run_script(ROOT / "tests" / "support" / "two_nodes.py", json.dumps(task)))
    assert [status for status, _ in json.loads(done.stdout.splitlines()[-1])] == [0, 0]
    assert "2 machines agree: software, code, number of ranks\n" in (tmp_path / "0.txt").read_text()
    told = (tmp_path / "1.txt").read_text()
    assert json.loads(told[told.index("{") :]) == {"healthy": True, "faults": [], "notes": []}


TRAIN = ("--opt-level", "O0", "--workers", "0", "--no-report", "--no-check", "--no-validate", "--seed", "0")
TRAIN += ("--device", "cpu", "--batch-size", "1", "--max-iters", "4")
SCRIPT = ("bash", ROOT / "test" / "train_performance_multinodes.sh")


def launch(machines: Machines, node: int, data: Path, folder: Path, *flags: str, first: str = "") -> Process:
    """The launcher on a machine, with the flags of the guide and those that make the training small.

    Args:
        first: a shell command that the machine runs before.
    """
    words: list[str | Path] = ["sh", "-c", f'{first}exec "$@"', "sh", *SCRIPT, f"--data_path={data}", "--batch_size=1"]
    words += ["--nnodes=2", f"--node_rank={node}", f"--local_addr={machines.addresses[node]}"]
    words += [
        f"--master_addr={machines.addresses[0]}",
        "--nproc=2",
        "--device=cpu",
        f"--config={EXACT}",
        "--max_iters=4",
    ]
    words += ["--opt_level=O0", f"--work_dir={folder / 'w'}", *flags]
    return machines.start(node, words, folder / f"node{node}.txt", PYTHON=sys.executable, FCOS_FOLLOW="1")


def corrected(data: Path, folder: Path) -> Path:
    """A copy with a box without area, which the check drops: the training reads a corrected file in its work dir."""
    copy = shutil.copytree(data, folder)
    file = copy / "annotations" / "instances_train2017.json"
    coco = json.loads(file.read_text())
    coco["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(coco))
    return copy


@pytest.mark.slow_fault
def test_two_machines_train_what_one_trains(machines, sixteen, tmp_path) -> None:
    """Machine b has a disk of its own: another path of the data, and no work dir that it shares."""
    data = [corrected(sixteen, tmp_path / name) for name in ("a", "b")]
    disks = ["", f"mkdir -p {tmp_path}/w && mount -t tmpfs none {tmp_path}/w && "]
    nodes = [launch(machines, node, data[node], tmp_path, first=disks[node]) for node in (0, 1)]
    assert [node.status(240) for node in nodes] == [0, 0], nodes[1].text[-2000:]
    assert all("2 machines agree" in node.text and not node.left() for node in nodes)
    assert f"note: work dir {tmp_path}/w: not shared with node 1 (10.77.0.2)" in nodes[1].text
    assert "------------------ Final result ------------------" in nodes[0].text
    one = run_ranks(
        4, "train", EXACT, "--data-path", data[0], "--work-dir", tmp_path / "one", "--loss-scale", "32.0", *TRAIN
    )
    expected = exact(ok(one))
    found = [dict(re.findall(r"^exact (\d+ \d+) (\S+ \S+)", node.text, re.MULTILINE)) for node in nodes]
    assert {key.split()[0] for key in found[1]} == {"2", "3"}
    assert len(expected) == 16
    both = {tuple(map(int, key.split())): value.split() for node in found for key, value in node.items()}
    assert {key: (float.fromhex(loss), images) for key, (loss, images) in both.items()} == expected


@pytest.mark.slow_fault
def test_launchers_that_do_not_agree_train_nothing(machines, sixteen, tmp_path) -> None:
    nodes = [launch(machines, node, sixteen, tmp_path, f"--seed={node}") for node in (0, 1)]
    for node in nodes:
        assert node.status(120) == 2
        assert f"{NODE1}--seed is 1, on node 0 it is 0: {SAME_FLAGS}\n" in node.text
        assert "training log" not in node.text and not node.left()
    assert not (tmp_path / "w").exists()


@pytest.mark.slow_fault
def test_a_launcher_alone(machines, sixteen, tmp_path) -> None:
    node = launch(machines, 1, sixteen, tmp_path, "--rendezvous_timeout=4s")
    assert node.status(90) == 2
    assert "error: node 1: node 0 has not answered at 10.77.0.1:23333 within 4 s" in node.text and not node.left()


def ranks(machines: Machines, node: int, kind: str, data: Path, folder: Path, *flags: str) -> Process:
    """One rank on a machine, started by torchrun or, its environment faked, by srun; it finds its address itself."""
    train: list[str | Path] = [
        "train",
        EXACT,
        "--data-path",
        data,
        "--work-dir",
        folder / "w",
        *TRAIN,
        "--launcher",
        kind,
    ]
    command: list[str | Path] = [sys.executable]
    if kind == "pytorch":
        command += ["-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}", "--nproc_per_node=1"]
        command += [f"--master_addr={machines.addresses[0]}", "--master_port=23334"]
    fake_srun = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": str(node), "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(node), "SLURM_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": machines.addresses[0],
    }  # fmt: skip
    log = folder / f"{kind}{node}.txt"
    return machines.start(
        node, [*command, "-m", "fcos_train", *train, *flags], log, **(fake_srun if kind == "slurm" else {})
    )


@pytest.mark.slow_fault
@pytest.mark.parametrize("kind", ["pytorch", "slurm"])
def test_ranks_that_were_not_started_alike(machines, sixteen, tmp_path, kind) -> None:
    nodes = [ranks(machines, node, kind, sixteen, tmp_path, f"--batch-size={1 + node}") for node in (0, 1)]
    said = (
        r"rank 1 on node 1 \(host .*\): --batch-size is 2, on rank 0 it is 1: start all of them with the same flags\n"
    )
    for node in nodes:
        assert node.status(120) == (1 if kind == "pytorch" else 2)
        assert re.search(said, node.text), node.text[-3000:]
        assert not node.left()
    assert not (tmp_path / "w").exists()


FAKE_SRUN = """#!/bin/sh
# FAKE srun: two tasks, each on a machine of its own, as srun tells them who they are
echo "$@" > "$FAKE_RECORD"
while [ "${1#--}" != "$1" ]; do shift; done
for node in 0 1; do
    namespace=$(echo "$FAKE_NAMESPACES" | cut -d, -f$((node + 1)))
    SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_NODEID=$node \\
        SLURM_TASKS_PER_NODE='1(x2)' ip netns exec "$namespace" "$@" &
    tasks="$tasks $!"
done
for task in $tasks; do wait "$task" || exit $?; done
"""


@pytest.mark.slow_fault
def test_the_slurm_script_trains_on_two_machines(machines, sixteen, tmp_path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(FAKE_SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    words = [
        "bash",
        ROOT / "scripts" / "slurm_train.sh",
        EXACT,
        "--data-path",
        sixteen,
        "--work-dir",
        tmp_path / "w",
        *TRAIN,
    ]
    job = Process(
        words, tmp_path / "job.txt", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", PYTHON=sys.executable,
        FAKE_NAMESPACES=",".join(machines.names), FAKE_RECORD=str(tmp_path / "srun.txt"), SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="1", SLURM_JOB_NODELIST=machines.addresses[0],
    )  # fmt: skip
    assert job.status(240) == 0, job.text[-3000:]
    found = re.findall(r"^exact (\d) (\d) ", job.text, re.MULTILINE)
    assert sorted(found) == [(rank, step) for rank in "01" for step in "1234"]
    assert (tmp_path / "srun.txt").read_text().startswith("--cpus-per-task=1 --kill-on-bad-exit=1 ")
    assert not job.left()
