"""Ranks that Slurm's ``srun`` has started: its variables translated to those of torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import init_dist_pytorch
from mmcv_overrides.seams import Override

HOW = "start with srun, one task for each device (see scripts/slurm_train.sh)"
PORTS = range(15000, 30000)  # below the ports that systems hand out


def init_dist_slurm(backend: str, port: int | None = None, init_backend: str = "torch", **kwargs: Any) -> None:
    """Join the process group of the tasks of a Slurm job step.

    Args:
        backend: ignored, as in :func:`init_dist_pytorch`. port: of the first task; default: ``MASTER_PORT``, else one
            that follows from the number of the job.

    Raises:
        UserError: this process is not a task of srun, or its variables contradict each other.
    """
    os.environ.update(ranks_of_slurm(os.environ, port))
    init_dist_pytorch(backend, init_backend, **kwargs)


def ranks_of_slurm(environment: Mapping[str, str], port: int | None = None) -> dict[str, str]:
    """What torchrun would set for this task.

    Returns:
        RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Raises:
        UserError: as :func:`init_dist_slurm`.
    """
    rank, local_rank = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    if tasks > 1 and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(environment):
        raise UserError(f"--launcher slurm: this is the batch script itself, and {tasks - 1} tasks are missing; {HOW}")
    if rank >= tasks:
        raise UserError(f"--launcher slurm: SLURM_PROCID is {rank}, but there are {tasks} tasks; {HOW}")
    local_tasks = _tasks_of_node(environment, tasks)
    if environment.get("SLURM_GPUS_PER_TASK", "") == "1":  # each task sees its own card only, as number 0
        local_rank, local_tasks = 0, 1
    nodes = next((environment[key] for key in NODE_LISTS if environment.get(key)), None)
    address = environment.get("MASTER_ADDR") or (first_host(nodes) if nodes else None)
    if address is None:
        raise UserError(
            f"--launcher slurm: none of {', '.join(NODE_LISTS)} is set, so the first node is unknown; {HOW}"
        )
    job = _number(environment, "SLURM_JOB_ID", "SLURM_JOBID")
    chosen = port or environment.get("MASTER_PORT") or PORTS[job % len(PORTS)]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_tasks),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(chosen),
    }


NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


def first_host(nodes: str) -> str:
    """The first host of a list such as ``gpu[003-007,12],login1`` or ``r[1-2]n[3-4]``: ``gpu003``, ``r1n3``.

    Raises:
        UserError: brackets do not match.
    """
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes)
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else ""
    if not host or "[" in host or nodes.count("[") != nodes.count("]"):
        raise UserError(f"--launcher slurm: cannot read the node list '{nodes}'")
    return host


def _tasks_of_node(environment: Mapping[str, str], tasks: int) -> int:
    """Tasks on this node, of a text such as ``8(x2),4``."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    if not text:
        return tasks
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise UserError(f"--launcher slurm: cannot read the tasks of each node, '{text}'")
        counts += [int(match[1])] * int(match[2] or 1)
    node = _number(environment, "SLURM_NODEID")
    if node >= len(counts):
        raise UserError(f"--launcher slurm: SLURM_NODEID is {node}, but there are {len(counts)} nodes ({text})")
    return counts[node]


def _number(environment: Mapping[str, str], *names: str) -> int:
    """The first of these variables that is set.

    Raises:
        UserError: none is set, or not to a number.
    """
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        raise UserError(f"--launcher slurm: {names[0]} is not set; {HOW}")
    if not environment[name].isdecimal():
        raise UserError(f"--launcher slurm: {name}={environment[name]} is not a number")
    return int(environment[name])


OVERRIDES = [
    Override(
        "mmengine.dist.utils:_init_dist_slurm",
        init_dist_slurm,
        "upstream calls torch.cuda.set_device and scontrol, and joins a batch script without srun to nobody",
    ),
]
