"""Free ports, and the environment that ranks on one machine need."""

from __future__ import annotations

import os
import socket

from mmcv_overrides.device import cores

HCCL_PORTS = 16  # that HCCL listens on, from a base port
CONNECT_S = 600  # for the ranks to reach each other over HCCL


def port_is_free(port: int) -> bool:
    """Whether this machine can listen on a port: bound as torch's store binds it, so TIME_WAIT does not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def hccl_base_port() -> int:
    """The first of 16 free ports: two jobs on one machine need different ones."""
    bases = range(60000, 65000, HCCL_PORTS)
    return next((base for base in bases if all(map(port_is_free, range(base, base + HCCL_PORTS)))), bases[0])


def rank_environment(kind: str, ranks: int, nodes: int = 1) -> dict[str, str]:
    """Environment variables that the ranks of a machine need; those that the user has set are kept.

    Args:
        kind: of the devices (cpu, cuda, npu). ranks: of this machine. nodes: machines of the training.
    """
    wanted: dict[str, str] = {}
    if kind == "npu":
        wanted = {"HCCL_CONNECT_TIMEOUT": str(CONNECT_S), "HCCL_WHITELIST_DISABLE": "1"}
        if nodes == 1:
            wanted["HCCL_IF_BASE_PORT"] = os.environ.get("HCCL_IF_BASE_PORT") or str(hccl_base_port())
    elif kind == "cpu":
        wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(max(cores() // ranks, 1)))  # share all cores
    return {key: value for key, value in wanted.items() if not os.environ.get(key)}
