"""Node 0's side of :mod:`fcos_train.launch.exchange`: wait for the other nodes, judge their facts, tell the verdict."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field

from fcos_train.launch.exchange import (
    ANSWER_S,
    GRACE_S,
    GREETING,
    LONGEST,
    Clock,
    Judge,
    Place,
    Said,
    Say,
    Verdict,
    decoded,
    encoded,
    messages,
)
from mmcv_overrides.network import is_local

CONNECTIONS = 1024  # at a time


@dataclass
class _Connection:
    """A connection. node: None before it has said who it is. said: its facts."""

    socket: socket.socket
    address: str
    text: bytes = b""
    node: int | None = None
    said: Said = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"node {self.node} ({self.address})"

    def tell(self, message: Said) -> None:
        """Send a line; that a machine has gone is noticed when it has to confirm."""
        with suppress(OSError):
            self.socket.settimeout(ANSWER_S)
            self.socket.sendall(encoded(message))

    def confirms(self) -> bool:
        """Whether it says within its deadline that it has the verdict."""
        end = time.monotonic() + ANSWER_S
        try:
            return next(messages(self.socket, lambda: end - time.monotonic()), None) is not None
        except OSError:
            return False


def serve_nodes(place: Place, mine: Said, judge: Judge, say: Say) -> Verdict:
    """Wait for the other nodes, and tell all of them the verdict.

    Args:
        mine: the facts of this node. judge: makes the verdict on the facts by node. say: prints a line.

    Raises:
        OSError: the port cannot be listened on.
    """
    with _listening(place) as listener:
        server = _Server(listener, place, mine, judge, say)
        try:
            verdict = server.wait()
            return _told(verdict, server.nodes())
        finally:
            for connection in server.connections.values():
                connection.socket.close()


def _told(verdict: Verdict, connections: list[_Connection]) -> Verdict:
    """Tell the verdict; a good one is bad after all where a node does not confirm it."""
    for connection in connections:
        connection.tell({"verdict": {"faults": verdict.faults, "notes": verdict.notes}})
    if verdict.faults:
        return verdict
    lost = [connection for connection in connections if not connection.confirms()]
    faults = tuple(f"{connection.name}: it does not answer any more: start all nodes again" for connection in lost)
    for connection in connections:
        connection.tell({"start": not faults, "faults": faults})
    return Verdict(faults, verdict.notes)


def _listening(place: Place) -> socket.socket:
    """A socket on the address that the others know; on all addresses where that is a name, or none of this machine."""
    if place.host == place.address and is_local(place.host):
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        return socket.create_server((place.host, place.port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", place.port))


class _Server:
    """The connections of node 0, and what the nodes have said."""

    def __init__(self, listener: socket.socket, place: Place, mine: Said, judge: Judge, say: Say) -> None:
        self.listener, self.place, self.mine, self.judge, self.say = listener, place, mine, judge, say
        self.connections: dict[socket.socket, _Connection] = {}
        self.wrong: list[str] = []  # nodes that cannot be of this training
        self.verdict = judge({0: mine})
        self.selector = selectors.DefaultSelector()

    def nodes(self) -> list[_Connection]:
        """Those that have said who they are."""
        return [connection for connection in self.connections.values() if connection.node is not None]

    def wait(self) -> Verdict:
        """Until all nodes are there; until the deadline; or, once a fault is known, for :data:`GRACE_S`."""
        clock, grace = Clock(self.place.timeout), None
        with self.selector:
            self.selector.register(self.listener, selectors.EVENT_READ)
            while True:
                present = {connection.node for connection in self.nodes()}
                absent = [node for node in range(1, self.place.nodes) if node not in present]
                if self.verdict.faults and grace is None:
                    grace = Clock(min(GRACE_S, clock.left))
                if not absent or (grace is not None and not grace.left):
                    return self.verdict
                if not clock.left:
                    missing = tuple(map(self._missing, absent))
                    return Verdict((*self.verdict.faults, *missing), self.verdict.notes)
                if clock.due():
                    self._tell_waiting(absent, clock)
                for key, _ in self.selector.select(min(0.5, clock.left)):
                    self._attend(key.fileobj)  # type: ignore[arg-type]

    def _missing(self, node: int) -> str:
        place = self.place
        return (
            f"node {node}: it has not come to {place} within {place.timeout:g} s: start it with --node_rank={node} and "
            f"--master_addr={place.host}, and let firewalls pass port {place.port}"
        )

    def _tell_waiting(self, absent: list[int], clock: Clock) -> None:
        text = f"node{'s' * (len(absent) > 1)} {', '.join(map(str, absent))} {clock}"
        self.say(f"waiting for {text}; this is node 0, at {self.place}")
        for connection in self.nodes():
            connection.tell({"waiting": text})

    def _attend(self, source: socket.socket) -> None:
        """Accept a connection, or read what one has to say."""
        if source is self.listener:
            with suppress(OSError):
                accepted, address = self.listener.accept()
                if len(self.connections) >= CONNECTIONS:
                    accepted.close()
                    return
                shown = str(address[0]).removeprefix("::ffff:")  # IPv4 on a socket for both
                self.connections[accepted] = _Connection(accepted, shown)
                self.selector.register(accepted, selectors.EVENT_READ)
            return
        connection = self.connections[source]
        try:
            block = source.recv(1 << 16)
        except OSError:
            block = b""
        connection.text += block
        known = connection.node is not None
        if (
            not block
            or known
            or len(connection.text) > LONGEST
            or (b"\n" in connection.text and not self._enter(connection))
        ):
            self.selector.unregister(source)
            del self.connections[source]
            source.close()
        if b"\n" in connection.text or known:
            self._judge()

    def _enter(self, connection: _Connection) -> bool:
        """Read the facts of a connection; False if it is none of this training."""
        said = decoded(connection.text.partition(b"\n")[0])
        if said is None or said.get("greeting") != GREETING or not isinstance(said.get("node"), int):
            return False
        node, clock = said["node"], said.get("time")
        twin = next((other for other in self.nodes() if other.node == node), None)
        if twin is None and 0 < node < self.place.nodes:
            ahead = clock - time.time() if isinstance(clock, (int, float)) else 0.0
            connection.node, connection.said = node, {**said, "ahead": ahead}
            connection.tell({"received": node})
            return True
        reason = (
            f"the nodes of node 0 are 0 to {self.place.nodes - 1}: check --nnodes and --node_rank"
            if twin is None
            else f"{twin.address} says that it is node {node} too: give each machine its own --node_rank"
        )
        self.wrong.append(f"node {node} ({connection.address}): {reason}")
        connection.tell({"verdict": {"faults": self.wrong[-1:]}})
        return False

    def _judge(self) -> None:
        found = self.judge(
            {0: self.mine, **{connection.node: connection.said for connection in self.nodes() if connection.node}}
        )
        self.verdict = Verdict((*self.wrong, *found.faults), found.notes)
