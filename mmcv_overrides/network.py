"""The network interface that ranks on several machines use to reach each other.

gloo announces the address that the machine's host name resolves to. On Debian and Ubuntu that is usually 127.0.1.1, so
the other machines connect to themselves and fail. Here the interface is found from an address instead: the one that
``FCOS_LOCAL_ADDR`` names (the launchers set it from ``--local_addr``), else the one from which the route to the master
leaves. Interfaces that the user names in ``GLOO_SOCKET_IFNAME`` or ``NCCL_SOCKET_IFNAME`` are kept.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv4Interface

from mmcv_overrides.errors import UserError

LOCAL_ADDRESS = "FCOS_LOCAL_ADDR"
INTERFACES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
# Requests of Linux's netdevice(7) for an interface's first IPv4 address and its netmask.
_ADDRESS, _NETMASK = 0x8915, 0x891B


def choose_interface(backend: str) -> str | None:
    """Set the interface of ``backend`` in the environment, before ranks on several machines join.

    Args:
        backend: of torch.distributed; hccl takes the address itself (``HCCL_IF_IP``).

    Returns:
        the interface; None if there is nothing to choose: one machine, another backend, or a choice of the user's.

    Raises:
        UserError: no interface of this machine has the address that ``FCOS_LOCAL_ADDR`` names.
    """
    variable = INTERFACES.get(backend)
    several = int(os.environ["WORLD_SIZE"]) > int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if variable is None or not several or variable in os.environ:
        return None
    named = os.environ.get(LOCAL_ADDRESS)
    address = named or route_address(os.environ["MASTER_ADDR"])
    found = interface_of(address) if address else None
    if found is not None:
        os.environ[variable] = found
    elif named and sys.platform.startswith("linux") and _ipv4(named):
        raise UserError(
            f"no network interface of this machine has the address {named} (--local_addr, {LOCAL_ADDRESS}); "
            f"it has {', '.join(f'{ip.ip} ({name})' for name, ip in addresses().items())}"
        )
    return found


def route_address(host: str) -> str | None:
    """The address from which this machine reaches ``host``; None if it is unknown or there is no route."""
    try:
        kind, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect(target)
            return probe.getsockname()[0]
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """Name of the interface that has an IPv4 address, or else whose network has it; None if there is none."""
    if not _ipv4(address):
        return None
    wanted, known = IPv4Address(address), addresses()
    exact = (name for name, own in known.items() if own.ip == wanted)
    # All of 127.0.0.0/8 is this machine; only the first address of an interface is listed.
    within = (name for name, own in known.items() if own.ip.is_loopback and wanted in own.network)
    return next(exact, next(within, None))


def addresses() -> dict[str, IPv4Interface]:
    """The interfaces of this machine that have an IPv4 address, each with its first one; empty if this is no Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    import fcntl

    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                parts = [fcntl.ioctl(probe.fileno(), ask, request)[20:24] for ask in (_ADDRESS, _NETMASK)]
            except OSError:  # the interface has no address
                continue
            found[name] = IPv4Interface("/".join(map(socket.inet_ntoa, parts)))
    return found


def _ipv4(address: str) -> bool:
    try:
        IPv4Address(address)
    except ValueError:
        return False
    return True
