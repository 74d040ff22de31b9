"""Machines for a test: network namespaces joined by a veth pair, so that addresses, interfaces and cut links are real.

Processes and files are those of this machine; the network, the loopback included, is each namespace's own.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import Process

INTERFACE = "eth0"
_numbers = itertools.count()


@dataclass(frozen=True)
class Machines:
    """Two machines on one network.

    Attributes:
        names: of the namespaces. addresses: of their interface ``eth0``; the first machine is node 0.
    """

    names: tuple[str, str]
    addresses: tuple[str, str] = ("10.77.0.1", "10.77.0.2")

    def within(self, node: int, *words: str | Path) -> list[str | Path]:
        """A command as it is to be started so that it runs on a machine; ``ip`` replaces itself by it."""
        return ["ip", "netns", "exec", self.names[node], *words]

    def start(self, node: int, command: Sequence[str | Path], log: Path, **extra: str) -> Process:
        """Start a command on a machine; arguments as of :class:`tests.support.faults.Process`."""
        return Process(self.within(node, *command), log, **extra)

    def cut(self, node: int) -> None:
        """Take the link of a machine down: packets are lost, and nobody is told."""
        _ip("-n", self.names[node], "link", "set", INTERFACE, "down")

    def mend(self, node: int) -> None:
        """Take the link up again."""
        _ip("-n", self.names[node], "link", "set", INTERFACE, "up")

    def power_off(self, node: int) -> None:
        """Cut the link, then kill all processes of the machine: the other one gets no packet that says so."""
        self.cut(node)
        self.kill(node)

    def processes(self, node: int) -> list[int]:
        """All that run on a machine."""
        return [int(pid) for pid in _ip("netns", "pids", self.names[node]).split()]

    def kill(self, node: int) -> None:
        """Kill all processes of a machine and wait until they are gone."""
        end = time.monotonic() + 10
        while (left := self.processes(node)) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@functools.cache
def missing() -> str | None:
    """Why this machine cannot have namespaces of its own; None if it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and the command ip"
    try:
        with joined():
            return None
    except AssertionError as error:
        return f"needs network namespaces and veth: {error}"


@contextmanager
def joined() -> Iterator[Machines]:
    """Two machines; whatever happens, their processes are killed and the namespaces removed at the end."""
    stem = f"fcos{os.getpid()}x{next(_numbers)}"
    machines = Machines((f"{stem}a", f"{stem}b"))
    made = []
    try:
        for name in machines.names:
            _ip("netns", "add", name)
            made.append(name)
        first, second = machines.names
        _ip("-n", first, "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        for name, address in zip(machines.names, machines.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield machines
    finally:
        for node, name in enumerate(machines.names):
            if name in made:
                machines.kill(node)
                _ip("netns", "delete", name)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two machines of the test's own; it skips visibly where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    with joined() as found:
        yield found
