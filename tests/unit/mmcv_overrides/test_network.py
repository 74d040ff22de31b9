"""Which network interface the ranks of several machines use: that of the given address, not that of the host name."""

import sys
from ipaddress import ip_address

import pytest

from mmcv_overrides import network
from mmcv_overrides.errors import UserError

OWN = [
    ("lo", "127.0.0.1"),
    ("eth0", "10.0.0.5"),
    ("eth0:1", "10.0.0.6"),
    ("ib0", "192.168.7.5"),
    ("ib0", "fd00::7"),
    ("lo", "::1"),
]

ROUTES = {"10.0.0.9": "10.0.0.5", "127.0.0.1": "127.0.0.1", "node0": "127.0.1.1"}


@pytest.fixture
def node(monkeypatch) -> dict[str, str]:
    """One of two machines with two ranks each, as torchrun describes it, and three interfaces."""
    environment = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.9"}
    for name in (*network.INTERFACES.values(), network.LOCAL_ADDRESS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "addresses", lambda: [(name, ip_address(own)) for name, own in OWN])
    monkeypatch.setattr(network, "route_address", lambda host: ROUTES.get(host))
    monkeypatch.setattr(network.sys, "platform", "linux")
    monkeypatch.setattr(network.os, "environ", environment)
    return environment


@pytest.mark.parametrize(
    ("backend", "more", "chosen"),
    [
        ("gloo", {}, "eth0"),  # by the route to the master
        ("gloo", {"FCOS_LOCAL_ADDR": "192.168.7.5"}, "ib0"),
        ("nccl", {"FCOS_LOCAL_ADDR": "192.168.7.5"}, "ib0"),
        ("gloo", {"FCOS_LOCAL_ADDR": "10.0.0.6"}, "eth0:1"),  # a second address
        ("gloo", {"FCOS_LOCAL_ADDR": "fd00::7"}, "ib0"),
        ("gloo", {"FCOS_LOCAL_ADDR": "127.0.0.2"}, "lo"),  # a rehearsal
        ("gloo", {"MASTER_ADDR": "127.0.0.1"}, "lo"),
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
    known = r"it has 10\.0\.0\.5 \(eth0\), 10\.0\.0\.6 \(eth0:1\), 192\.168\.7\.5 \(ib0\), fd00::7 \(ib0\)$"
    with pytest.raises(UserError, match=rf"has the address 10\.0\.0\.77 .*{known}"):
        network.choose_interface("gloo")


def test_a_master_whose_name_is_the_loopback_here(node) -> None:
    """As Debian's /etc/hosts has it for the machine's own name: the others would never be reached."""
    node["MASTER_ADDR"] = "node0"
    with pytest.raises(UserError, match=r"the master node0 has the loopback address 127\.0\.1\.1 on this machine"):
        network.choose_interface("gloo")
    node["FCOS_LOCAL_ADDR"] = "10.0.0.5"
    assert network.choose_interface("gloo") == "eth0"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the interfaces as Linux tells them")
def test_the_loopback_of_this_machine() -> None:
    loopback = next(name for name, own in network.addresses() if own.is_loopback)
    assert network.interface_of("127.0.0.1") == network.interface_of("127.1.2.3") == loopback
    assert network.interface_of("192.0.2.200") is None and network.interface_of("no address") is None
    assert network.is_local("127.0.0.1") and network.is_local("localhost") and not network.is_local("192.0.2.200")
    assert network.route_address("127.0.0.1") == "127.0.0.1"
    assert network.route_address("no.such.host.invalid") is None
