"""The exchange of facts between machines: what node 0 and the others make of absent, lost and foreign programs."""

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from fcos_train.launch import exchange, exchange_server
from fcos_train.launch.exchange import GREETING, Place, Verdict, ask_node_0
from fcos_train.launch.exchange_server import serve_nodes
from fcos_train.launch.machines import judged
from fcos_train.launch.network import free_port

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    for module, name, value in (
        (exchange, "EVERY_S", 0.2), (exchange, "SILENCE_S", 2.0), (exchange, "ANSWER_S", 1.0),
        (exchange_server, "ANSWER_S", 1.0), (exchange_server, "GRACE_S", 0.3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


class Server:
    """Node 0 in a thread, which waits for two others."""

    def __init__(self, judge: Callable = lambda known: Verdict(notes=(f"{len(known)}",)), timeout: float = 10) -> None:
        self.port, self.lines = free_port(), []
        self.found: list[Verdict] = []
        mine = {"facts": {"who": "0"}}
        self.thread = threading.Thread(
            target=lambda: self.found.append(serve_nodes(self.place(0, timeout), mine, judge, self.lines.append))
        )
        self.thread.start()

    def place(self, node: int, timeout: float = 10) -> Place:
        return Place(3, node, HOST, HOST, self.port, timeout)

    def ask(self, *nodes: int) -> list[Verdict]:
        """What each of these nodes hears, all at once."""
        heard: dict[int, Verdict] = {}

        def one(node: int) -> None:
            heard[node] = ask_node_0(self.place(node), {"facts": {"who": str(node)}}, self.lines.append)

        threads = [threading.Thread(target=one, args=(node,)) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [heard[node] for node in nodes]

    def connected(self, *sent: bytes) -> socket.socket:
        """A program that connects and sends something else; once node 0 listens."""
        end = time.monotonic() + 5
        while True:
            try:
                connection = socket.create_connection((HOST, self.port), 5)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.02)
        for block in sent:
            connection.sendall(block)
        return connection

    def verdict(self) -> Verdict:
        """What node 0 has found out."""
        self.thread.join(20)
        return self.found[0]


def hello(node: object, **more: object) -> bytes:
    return json.dumps({"greeting": GREETING, "node": node, **more}).encode() + b"\n"


def test_all_hear_the_same_and_nobody_starts_alone() -> None:
    server = Server()
    assert server.ask(1, 2) == [Verdict(notes=("3",))] * 2 and server.verdict() == Verdict(notes=("3",))


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"\0" * 70000 + b"\n", b"[" * 20000 + b"\n", b"[]\n", hello("1"), hello(None),
        b'{"greeting": "fcos-train machines 0", "node": 1}\n', b"", b"half a line",
    ],
    ids=["http", "zeros", "nested", "a_list", "a_name", "no_number", "another_version", "nothing", "half_a_line"],
)  # fmt: skip
def test_programs_that_are_no_node_change_nothing(sent) -> None:
    server = Server()
    with server.connected(sent):
        assert server.ask(1, 2) == [Verdict(notes=("3",))] * 2


def test_facts_of_any_kind_raise_nothing() -> None:
    server = Server(judged)
    facts = [7, None, {"flags": 3, "config": {"a\n": [1]}, "\x1b[31m": {}}]
    others = [server.connected(hello(1, facts=facts[2], faults="no list", ahead="x", time="noon", free="little"))]
    others.append(server.connected(hello(2, facts=facts[0], faults=[7, "two\nlines"], folder=1)))
    found = server.verdict()
    assert found.faults == ("7", "two\\nlines")
    for other in others:
        other.close()


def test_who_is_absent_is_named_to_all() -> None:
    server = Server(timeout=1)
    (heard,) = server.ask(1)
    assert heard == server.verdict()
    (fault,) = heard.faults
    assert fault.startswith(f"node 2: it has not come to {HOST}:{server.port} within 1 s: start it with --node_rank=2")
    assert any(line.startswith("waiting for node 2 (") for line in server.lines)


def test_two_machines_with_one_number() -> None:
    server = Server()
    first = server.connected(hello(1))
    (second,) = server.ask(1)
    expected = f"node 1 ({HOST}): {HOST} says that it is node 1 too: give each machine its own --node_rank"
    assert second.faults == (expected,) and server.verdict().faults == (expected,)
    first.close()


def test_a_machine_that_is_lost_between_its_facts_and_the_start() -> None:
    server = Server()
    silent = server.connected(hello(1))
    (heard,) = server.ask(2)
    expected = f"node 1 ({HOST}): it does not answer any more: start all nodes again"
    assert heard.faults == (expected,) == server.verdict().faults
    silent.close()


def test_a_machine_that_leaves_is_waited_for_again() -> None:
    server = Server()
    server.connected(hello(1)).close()
    assert server.ask(1, 2) == [Verdict(notes=("3",))] * 2


def test_node_0_that_does_not_say_a_word() -> None:
    """Another program on that port: the deadline holds."""
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        start, lines = time.monotonic(), []
        verdict = ask_node_0(Place(2, 1, HOST, HOST, port, 1), {}, lines.append)
        assert time.monotonic() - start < 2
    assert verdict.faults[0].startswith(f"node 1: node 0 has not answered at {HOST}:{port} within 1 s (no answer: ")


@pytest.mark.parametrize(
    ("host", "reason"),
    [("no.such.host.invalid", "the name of the master is unknown here"), (HOST, "nothing listens there yet")],
)
def test_why_node_0_is_not_reached(host, reason) -> None:
    verdict = ask_node_0(Place(2, 1, HOST, host, free_port(), 0.5), {}, lambda line: None)
    assert f"({reason}): start it there" in verdict.faults[0]
