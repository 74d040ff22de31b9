"""Ranks on several machines: work that each machine does for itself, and values that all ranks tell each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from mmengine.dist import all_gather_object, get_rank, get_world_size

from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master

T = TypeVar("T")


def node() -> int:
    """Number of this machine, as torchrun or Slurm tells it."""
    told = next((os.environ[name] for name in ("GROUP_RANK", "SLURM_NODEID") if os.environ.get(name)), None)
    if told is not None:
        return int(told)
    return get_rank() // int(os.environ.get("LOCAL_WORLD_SIZE", get_world_size()))


def this_rank() -> str:
    """For messages: ``rank 3 on node 1 (host b)``."""
    return f"rank {get_rank()} on node {node()} (host {socket.gethostname()})"


def from_all_ranks(read: Callable[[], T]) -> list[tuple[str, T]]:
    """What each rank reads, which must be picklable, with the name of the rank. No rank waits for one that failed.

    Raises:
        UserError: on every rank, if any of them raised one; the text is that of the first, with its name.
    """
    outcome: tuple[str, UserError | None, Any]
    try:
        outcome = (this_rank(), None, read())
    except UserError as error:
        outcome = (this_rank(), error, None)
    all_outcomes = all_gather_object(outcome)
    faults = [(who, error) for who, error, _ in all_outcomes if error is not None]
    if not faults:
        return [(who, value) for who, _, value in all_outcomes]
    who, first = faults[0]
    if len(faults) == len(all_outcomes):  # the same everywhere
        raise first
    raise UserError(f"{who}: {first}", first.setting)


def on_each_node(action: Callable[[], T]) -> dict[int, T]:
    """Run ``action`` once on each machine; all ranks get the results, which must be picklable, by number of the node.

    The machines may have disks of their own, and the action may leave files. On one machine this is
    :func:`mmcv_overrides.parallel.on_master`.

    Raises:
        UserError: on every rank, if any machine raised one.
    """
    size = get_world_size()
    if size == int(os.environ.get("LOCAL_WORLD_SIZE", size)):
        return {node(): on_master(action)}
    local = (
        "LOCAL_RANK" if "GROUP_RANK" in os.environ else "SLURM_LOCALID"
    )  # with a card per task all LOCAL_RANKs are 0
    leads = os.environ.get(local, os.environ.get("LOCAL_RANK", "0")) == "0"
    found = from_all_ranks(lambda: (node(), [action()] if leads else []))
    return {where: results[0] for _, (where, results) in reversed(found) if results}
