"""A machine, its link or a rank of it is lost: (fault, what must hold), on two machines with a gloo rank each."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import Process, losses
from tests.support.namespaces import Machines, joined, missing

pytestmark = [pytest.mark.slow_fault, pytest.mark.skipif(bool(missing()), reason=str(missing()))]

TIMEOUT = 10  # s, --dist_timeout and --rendezvous_timeout
STEP = r"Epoch \[1\]\[3/"


def start(machines: Machines, node: int, data: Path, folder: Path, *words: str, **settings: str) -> Process:
    """What the multi-node launcher runs on a machine, with its log in a file."""
    given = {
        "config": "fcos/fcos_tiny_shapes", "stem": "tiny", "work_dir": str(folder / "w"), "device_id": "0",
        "chosen_work_dir": str(folder / "w"), "nproc": "1", "nnodes": "2", "node_rank": str(node), "device": "cpu",
        "master_addr": machines.addresses[0], "master_port": "23456", "local_addr": machines.addresses[node],
        "ifname": "eth0", "data_path": str(data), "batch_size": "2", "opt_level": "O0", "loss_scale": "32", "seed": "0",
        "pretrained": "none", "dist_timeout": str(TIMEOUT), "rendezvous_timeout": str(TIMEOUT), "plain": "1",
        **settings,
    }  # fmt: skip
    command = [sys.executable, "-m", "fcos_train.launch.recipe", *(f"{key}={value}" for key, value in given.items())]
    extra = ["--", "--workers", "0", "--no-report", "--no-check", "--no-validate", *words]
    extra += ["--cfg-options", "default_hooks.logger.interval=1"]
    return machines.start(node, [*command, *extra], folder / f"node{node}.txt")


def wait_until_empty(machines: Machines, node: int, seconds: float) -> float:
    """How long it takes until nothing runs on a machine, s."""
    begun = time.monotonic()
    while machines.processes(node):
        assert time.monotonic() - begun < seconds, f"node {node} still runs {machines.processes(node)}"
        time.sleep(0.2)
    return time.monotonic() - begun


@dataclass(frozen=True)
class Loss:
    """What is lost in a step.

    Attributes:
        fault: called with the machines. said: what each machine that is left must say last, by its number.
    """

    fault: Callable[[Machines], None]
    said: dict[int, str]


AWAY = r"error.*training stopped while waiting for rank 1 \(step \d+ [a-z ]+; it does not answer\)"
ALONE = r"error.*the first machine \(10\.77\.0\.1.*(has|have) not answered"
LOSSES = {
    "the link is cut for good: both sides end": Loss(lambda machines: machines.cut(1), {0: AWAY, 1: ALONE}),
    "machine b loses power: a ends and names its rank": Loss(lambda machines: machines.power_off(1), {0: AWAY}),
    "machine a, which has the store, loses power: b ends": Loss(lambda machines: machines.power_off(0), {1: ALONE}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_a_step(name, shapes, tmp_path) -> None:
    row = LOSSES[name]
    with joined() as machines:
        nodes = [start(machines, node, shapes, tmp_path, "--max-iters", "500") for node in (0, 1)]
        nodes[0].wait_for(STEP)
        row.fault(machines)
        for node, said in row.said.items():
            wait_until_empty(machines, node, TIMEOUT + 45)
            lines = [line for line in nodes[node].text.splitlines() if line.startswith("error")]
            assert re.search(said, "\n".join(lines)), nodes[node].text[-4000:]
            assert nodes[node].text.strip().splitlines()[-1].startswith("error")


def test_node_0_never_starts(shapes, tmp_path) -> None:
    with joined() as machines:
        node = start(machines, 1, shapes, tmp_path)
        assert node.status(TIMEOUT + 60) in (1, 2)
        assert node.text.strip().splitlines()[-1].startswith("error: the machines did not meet")
        assert not machines.processes(1)


def test_a_rank_of_the_second_machine_killed_three_times_ends_with_the_undisturbed_losses(shapes, tmp_path) -> None:
    """Once before any checkpoint; the first machine follows each restart."""
    words = ("--max-iters", "8", "--checkpoint-every", "2")
    with joined() as machines:
        folder = tmp_path / "killed"
        folder.mkdir()
        settings = {"max_restarts": "3", "dist_timeout": "60", "rendezvous_timeout": "120"}
        nodes = [start(machines, node, shapes, folder, *words, **settings) for node in (0, 1)]
        for restarts, moment in enumerate(("Checkpoints will be saved to", r"\[1\]\[3/", r"\[1\]\[5/")):
            nodes[0].wait_for(rf"(?s)(work dir:.*?){{{restarts + 1}}}{moment}", 400)
            os.kill(nodes[1].rank(1), signal.SIGKILL)
            nodes[0].wait_for(rf"(?s)(\(restarted\).*?){{{restarts + 1}}}", 400)
        assert [node.status(400) for node in nodes] == [0, 0], nodes[1].text[-3000:]
        whole = tmp_path / "whole"
        whole.mkdir()
        others = [start(machines, node, shapes, whole, *words) for node in (0, 1)]
        assert [node.status(400) for node in others] == [0, 0]
    assert len(losses(others[0].text)) == 8
    assert losses(nodes[0].text) == losses(others[0].text)
