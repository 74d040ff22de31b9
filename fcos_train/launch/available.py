"""Memory that a process on this machine may still take: what is free, and the limits of its control group and user."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 2**60  # control groups of version 1 write a number near 2**63 for no limit


def cpu_memory(root: Path = ROOT) -> int:
    """Bytes: what the system calls available, or what the control groups of this process leave, if that is less.

    Args:
        root: of the file system, for tests.
    """
    found = [*_of_machine(root), *_of_groups(root)]
    return max(min(found), 0) if found else UNLIMITED


def virtual_memory_limit() -> int | None:
    """The limit on the address space of a process in bytes (``ulimit -v``); None if there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _of_machine(root: Path) -> Iterator[int]:
    file = root / "proc/meminfo"
    match = re.search(r"^MemAvailable: +(\d+) kB", file.read_text() if file.is_file() else "", re.MULTILINE)
    if match:
        yield int(match[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group from the process's own up to the root has left; files in its cache can be given back."""
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            yield from _left(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(base: Path, path: str, limit: str, usage: str) -> Iterator[int]:
    folder = base / path.lstrip("/")
    for place in (folder, *folder.parents):
        if not place.is_relative_to(base):
            return
        try:
            most, used = (place / limit).read_text().strip(), int((place / usage).read_text())
        except (OSError, ValueError):  # a container does not show the path of the machine
            continue
        if most.isdecimal() and int(most) < UNLIMITED:
            yield int(most) - used + _cached(place / "memory.stat")


def _cached(file: Path) -> int:
    match = re.search(r"^(?:total_)?inactive_file (\d+)", file.read_text() if file.is_file() else "", re.MULTILINE)
    return int(match[1]) if match else 0
