"""The network interface that ranks on several machines use to reach each other.

gloo announces the address that the machine's host name resolves to. On Debian and Ubuntu that is usually 127.0.1.1, so
the other machines connect to themselves and fail. Here the interface is found from an address instead: the one that
``FCOS_LOCAL_ADDR`` names (the launchers set it from ``--local_addr``), else the one from which the route to the master
leaves. Interfaces that the user names in ``GLOO_SOCKET_IFNAME`` or ``NCCL_SOCKET_IFNAME`` are kept.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from mmcv_overrides.errors import UserError

LOCAL_ADDRESS = "FCOS_LOCAL_ADDR"
INTERFACES = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
Address = IPv4Address | IPv6Address
# Of Linux's netdevice(7): the request for all IPv4 addresses, and an entry of the answer: name, sockaddr, padding.
_ALL, _ENTRY, _ROOM = 0x8912, struct.Struct("16s4x4s16x"), 1 << 16
_IPV6 = Path("/proc/net/if_inet6")


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
    named, master = os.environ.get(LOCAL_ADDRESS), os.environ["MASTER_ADDR"]
    address = named or route_address(master)
    if not named and address and is_loopback(address) and not is_loopback(master):
        raise UserError(
            f"the master {master} has the loopback address {address} on this machine (see /etc/hosts), which the other "
            f"machines cannot reach; name the address of this machine with --local_addr or {LOCAL_ADDRESS}: "
            f"{own_addresses()}"
        )
    found = interface_of(address) if address else None
    if found is not None:
        os.environ[variable] = found
    elif named and sys.platform.startswith("linux") and _parsed(named):
        raise UserError(
            f"no network interface of this machine has the address {named} (--local_addr, {LOCAL_ADDRESS}); "
            f"it has {own_addresses()}"
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


def is_loopback(host: str) -> bool:
    """Whether a name or an address says that it is this very machine."""
    address = _parsed(host)
    return host == "localhost" if address is None else address.is_loopback


def resolved(host: str) -> str:
    """The address that a name has on this machine; the name itself where it has none."""
    with suppress(OSError):
        return str(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][4][0])
    return host


def is_local(host: str) -> bool:
    """Whether a name or an address is one of this machine's; False for names that are unknown here."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def own_addresses() -> str:
    """The addresses of this machine that others may reach, for a message: ``10.0.0.5 (eth0), 10.1.0.5 (ib0)``."""
    reachable = [(name, own) for name, own in addresses() if not own.is_loopback and not own.is_link_local]
    return ", ".join(f"{own} ({name})" for name, own in reachable) or "none but the loopback"


def interface_of(address: str) -> str | None:
    """Name of the interface that has an address; None if there is none."""
    wanted, known = _parsed(address), addresses()
    exact = (name for name, own in known if own == wanted)
    # All of 127.0.0.0/8 is this machine; only the first address of an interface is listed.
    loopback = wanted is not None and wanted.is_loopback and wanted.version == 4
    within = (name for name, own in known if loopback and own.is_loopback)
    return next(exact, next(within, None))


def addresses() -> list[tuple[str, Address]]:
    """The addresses of this machine with the names of their interfaces, IPv4 first; empty if this is no Linux."""
    if not sys.platform.startswith("linux"):
        return []
    import fcntl

    room = array.array("B", bytes(_ROOM))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _ALL, struct.pack("iP", _ROOM, room.buffer_info()[0]))
    filled = struct.unpack("iP", answer)[0]
    entries = _ENTRY.iter_unpack(bytes(room[: filled - filled % _ENTRY.size]))
    found: list[tuple[str, Address]] = [(name.rstrip(b"\0").decode(), IPv4Address(ip)) for name, ip in entries]
    with suppress(OSError):  # a system without IPv6
        rows = [line.split() for line in _IPV6.read_text().splitlines()]
        found += [(row[-1], IPv6Address(bytes.fromhex(row[0]))) for row in rows]
    return found


def _parsed(address: str) -> Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None
