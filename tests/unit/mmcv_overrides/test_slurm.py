"""Slurm's variables as ranks: two nodes, parts of them, and what is refused."""

import os
import subprocess
from pathlib import Path

import mmengine.dist.utils as upstream
import pytest

from fcos_train.config.options import TrainOptions
from mmcv_overrides import activate, slurm
from mmcv_overrides.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
TASK = {
    "SLURM_JOB_ID": "15004",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "12",
    "SLURM_TASKS_PER_NODE": "8,4",
    "SLURM_JOB_NODELIST": "gpu[003-004]",
}


def test_a_task_of_the_second_node() -> None:
    assert slurm.ranks_of_slurm(TASK) == {
        "RANK": "11", "WORLD_SIZE": "12", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu003", "MASTER_PORT": "15004",
    }  # fmt: skip
    given = slurm.ranks_of_slurm({**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4711"})
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("10.0.0.1", "4711")
    bound = slurm.ranks_of_slurm({**TASK, "SLURM_GPUS_PER_TASK": "1"})
    assert (bound["LOCAL_RANK"], bound["LOCAL_WORLD_SIZE"], bound["RANK"]) == ("0", "1", "11")
    part = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    step = slurm.ranks_of_slurm({**TASK, **part, "SLURM_STEP_NODELIST": "gpu004,gpu009"})
    assert (step["WORLD_SIZE"], step["LOCAL_WORLD_SIZE"], step["MASTER_ADDR"]) == ("2", "1", "gpu004")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("a1,a2", "a1"),
        ("gpu[003-007,12],login1", "gpu003"),
        ("gpu[7,9]", "gpu7"),
        ("r[1-2]n[3-4]", "r1n3"),
        ("x[01-02]-ib,y", "x01-ib"),
    ],
)
def test_first_host(nodes, first) -> None:
    assert slurm.first_host(nodes) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_PROCID": None}, "SLURM_PROCID is not set; start with srun"),
        ({"SLURM_STEP_ID": None}, "this is the batch script itself, and 11 tasks are missing"),
        ({"SLURM_PROCID": "12"}, "SLURM_PROCID is 12, but there are 12 tasks"),
        ({"SLURM_LOCALID": "x"}, "SLURM_LOCALID=x is not a number"),
        ({"SLURM_JOB_NODELIST": None}, "none of SLURM_STEP_NODELIST, SLURM_JOB_NODELIST, SLURM_NODELIST is set"),
        ({"SLURM_JOB_NODELIST": "gpu[003"}, r"cannot read the node list 'gpu\[003'"),
        ({"SLURM_TASKS_PER_NODE": "8(2)"}, "cannot read the tasks of each node"),
        ({"SLURM_NODEID": "2"}, "SLURM_NODEID is 2, but there are 2 nodes"),
    ],
)
def test_mistakes_are_refused(change, message) -> None:
    environment = {key: value for key, value in {**TASK, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        slurm.ranks_of_slurm(environment)


def test_the_option_needs_srun_and_the_runtime_takes_ours(monkeypatch) -> None:
    activate()
    joined = {}
    monkeypatch.setattr(slurm, "init_dist_pytorch", lambda *_, **__: joined.update(os.environ))
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(UserError, match="--launcher slurm: start with srun"):
        TrainOptions("c.py", launcher="slurm")
    for key in slurm.ranks_of_slurm(TASK):
        monkeypatch.setenv(key, "")  # put back afterwards
    for key, value in TASK.items():
        monkeypatch.setenv(key, value)
    assert TrainOptions("c.py", launcher="slurm").launcher == "slurm"
    upstream._init_dist_slurm("nccl")
    assert (joined["RANK"], joined["WORLD_SIZE"], joined["MASTER_ADDR"]) == ("11", "12", "gpu003")


def test_the_script_starts_one_task_for_each_device(tmp_path) -> None:
    script = ROOT / "scripts" / "slurm_train.sh"
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "py"}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(script), *words], env=environment | more, capture_output=True, text=True)

    done = run("c.py", "--seed", "1", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="6")
    assert done.stdout == (
        "--cpus-per-task=6 --kill-on-bad-exit=1 py -m fcos_train train c.py --seed 1 --launcher slurm\n"
    )
    assert run(SLURM_JOB_ID="7").returncode == 2 and "give the config" in run().stderr
    outside = run("c.py")
    assert outside.returncode == 2 and "not a Slurm job" in outside.stderr
