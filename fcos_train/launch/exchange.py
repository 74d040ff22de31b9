"""The machines of a training exchange facts before it starts: the others tell node 0 theirs, which sends one verdict.

Lines of JSON over TCP, on the master's port; nothing is unpickled. A node sends one line with its facts. Node 0 answers
with a line every few seconds while nodes are absent, then with the verdict. A good verdict is confirmed by each node,
and only then does node 0 let all of them start, so that none begins with a machine that was lost meanwhile.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmcv_overrides.printable import printable

GREETING = "fcos-train machines 1"
EVERY_S = 3.0  # between two lines that tell what is waited for
GRACE_S = 10.0  # for absent nodes once a fault is known
CONNECT_S = 3.0
ANSWER_S = 10.0  # for a machine that is there
SILENCE_S = 5 * EVERY_S  # of node 0, after which it is asked again
LONGEST = 16 << 20  # bytes of a line

Said = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """What the machines have found out together. notes: worth knowing. faults: the training cannot start."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Judge = Callable[[Mapping[int, Said]], Verdict]


@dataclass(frozen=True)
class Place:
    """Which machines take part, and where node 0 listens.

    Attributes:
        nodes: machines. node: this one. address: its own. host, port: of the master. timeout: s to wait for the others.
    """

    nodes: int
    node: int
    address: str
    host: str
    port: int
    timeout: float

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Clock:
    """A deadline, and when the next line is due."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.start = self._told = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(self.start + self.timeout - time.monotonic(), 0.0)

    def due(self) -> bool:
        """Whether a line is due; the next one is after :data:`EVERY_S`."""
        if time.monotonic() < self._told + EVERY_S:
            return False
        self._told = time.monotonic()
        return True

    def __str__(self) -> str:
        return f"({time.monotonic() - self.start:.0f} s of {self.timeout:.0f} s)"


def encoded(message: Said) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


def decoded(line: bytes) -> Said | None:
    """The message of a line; None if it is something else."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def messages(connection: socket.socket, silence: Callable[[], float]) -> Iterator[Said]:
    """What the other side says.

    Args:
        silence: s that it may be silent from now on.

    Raises:
        OSError: it has ended the connection, is silent for too long, or is another program.
    """
    text = b""
    while True:
        connection.settimeout(max(silence(), 0.01))
        block = connection.recv(1 << 16)
        text += block
        *lines, text = text.split(b"\n")
        for line in lines:
            said = decoded(line)
            if said is None:
                raise ConnectionError("another program answers there")
            yield said
        if not block:
            raise ConnectionError("the connection was ended there: by node 0, or by another program on that port")
        if len(text) > LONGEST:
            raise ConnectionError("another program answers there")


def ask_node_0(place: Place, mine: Said, say: Say) -> Verdict:
    """The side of the other nodes: tell node 0 the facts of this one, and wait for the verdict.

    Args:
        mine: the facts. With faults among them node 0 is told, but not waited for. say: prints a line.
    """
    own = tuple(mine.get("faults", ()))
    clock = Clock(min(place.timeout, GRACE_S) if own else place.timeout)
    reason = "not tried"
    while clock.left:
        try:
            address = (place.host, place.port)
            with socket.create_connection(address, timeout=min(CONNECT_S, clock.left + 0.01)) as connection:
                return _ask(connection, place, mine, clock, say)
        except OSError as error:
            reason = _reason(error)
        if clock.due():
            say(f"waiting for node 0 at {place} {clock}; {reason}")
        time.sleep(min(0.2, clock.left))
    if own:
        return Verdict(own)
    return Verdict(
        (
            f"node {place.node}: node 0 has not answered at {place} within {place.timeout:g} s ({reason}): start it "
            "there with --node_rank=0, or correct --master_addr and --master_port",
        )
    )


def _ask(connection: socket.socket, place: Place, mine: Said, clock: Clock, say: Say) -> Verdict:
    """The verdict of node 0.

    Raises:
        OSError: the connection is lost before.
    """
    connection.settimeout(ANSWER_S)
    connection.sendall(encoded({**mine, "greeting": GREETING, "node": place.node, "time": time.time()}))
    verdict, waiting = Verdict(), "node 0"
    heard: list[Said] = []  # if anything, it is node 0, which has the same deadline and will name who is absent
    for said in messages(connection, lambda: min(SILENCE_S, clock.left + (ANSWER_S if heard else 0))):
        heard.append(said)
        if "waiting" in said:
            waiting = printable(said["waiting"])
            if not clock.left:
                return Verdict((f"node {place.node}: {waiting} did not come within {place.timeout:g} s",))
            say(f"waiting for {waiting}")
        elif "verdict" in said:
            verdict = Verdict(_texts(said["verdict"].get("faults")), _texts(said["verdict"].get("notes")))
            if verdict.faults:
                return verdict
            connection.sendall(encoded({"confirmed": place.node}))
        elif "start" in said:
            return verdict if said["start"] else Verdict(_texts(said.get("faults")))
    raise ConnectionError("node 0 has ended the connection")


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(printable(value) for value in values or ())


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there yet"
    if isinstance(error, socket.gaierror):
        return "the name of the master is unknown here"
    if isinstance(error, TimeoutError) or error.errno == errno.EHOSTUNREACH:
        return "no answer: is the machine on, the network the same, and the port open in the firewalls?"
    return str(error.strerror or error)
