"""Which network interface the ranks of several machines use: that of the given address, not that of the host name."""

import sys
from ipaddress import IPv4Interface

import pytest

from mmcv_overrides import network
from mmcv_overrides.errors import UserError

OWN = {"lo": "127.0.0.1/8", "eth0": "10.0.0.5/24", "ib0": "192.168.7.5/16"}


@pytest.fixture
def node(monkeypatch) -> dict[str, str]:
    """One of two machines with two ranks each, as torchrun describes it, and three interfaces."""
    environment = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.9"}
    for name in (*network.INTERFACES.values(), network.LOCAL_ADDRESS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "addresses", lambda: {name: IPv4Interface(own) for name, own in OWN.items()})
    monkeypatch.setattr(network, "route_address", lambda host: {"10.0.0.9": "10.0.0.5"}.get(host))
    monkeypatch.setattr(network.sys, "platform", "linux")
    monkeypatch.setattr(network.os, "environ", environment)
    return environment


@pytest.mark.parametrize(
    ("backend", "more", "chosen"),
    [
        ("gloo", {}, "eth0"),  # by the route to the master
        ("gloo", {"FCOS_LOCAL_ADDR": "192.168.7.5"}, "ib0"),
        ("nccl", {"FCOS_LOCAL_ADDR": "192.168.7.5"}, "ib0"),
        ("gloo", {"FCOS_LOCAL_ADDR": "127.0.0.2"}, "lo"),  # a rehearsal
        ("gloo", {"GLOO_SOCKET_IFNAME": "eth7"}, None),  # the user's choice
        ("gloo", {"LOCAL_WORLD_SIZE": "4"}, None),  # one machine
        ("gloo", {"MASTER_ADDR": "no.such.host"}, None),
        ("hccl", {}, None),  # takes HCCL_IF_IP
    ],
)
def test_the_interface_of_the_address(node, backend, more, chosen) -> None:
    node |= more
    before = dict(node)
    assert network.choose_interface(backend) == chosen
    expected = {network.INTERFACES[backend]: chosen} if chosen else {}
    assert node == before | expected


def test_an_address_of_another_machine(node) -> None:
    node["FCOS_LOCAL_ADDR"] = "10.0.0.77"
    with pytest.raises(UserError, match=r"has the address 10\.0\.0\.77 .*it has 127\.0\.0\.1 \(lo\), 10\.0\.0\.5"):
        network.choose_interface("gloo")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the interfaces as Linux tells them")
def test_the_loopback_of_this_machine() -> None:
    found = network.addresses()
    loopback = next(name for name, own in found.items() if own.ip.is_loopback)
    assert network.interface_of("127.0.0.1") == network.interface_of("127.1.2.3") == loopback
    assert network.interface_of("192.0.2.200") is None and network.interface_of("::1") is None
    assert network.route_address("127.0.0.1") == "127.0.0.1"
    assert network.route_address("no.such.host.invalid") is None
