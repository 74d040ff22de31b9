"""``fcos-train audit`` on shipped configs."""

import json

import pytest

from fcos_train.cli.main import main

TINY = ("fcos/fcos_tiny_shapes", "--shape", "96", "128", "--device", "cpu", "--opt-level", "O0", "--steps", "3")


def audit(*args) -> int:
    return main(["audit", *map(str, args)])


def test_mmdets_head_waits_and_ours_has_fewer_launches(tmp_path, capsys):
    assert audit(*TINY, "--json", tmp_path / "ours.json", "--max-syncs", 1, "--max-host-operators", 0, "--max-float64", 0) == 0
    assert audit(*TINY, "--step-mode", "mmdet", "--json", tmp_path / "stock.json", "--max-syncs", 1) == 1
    out = capsys.readouterr().out
    assert "above the limit: syncs: " in out and "boolean mask as an index" in out
    ours, stock = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "stock"))
    assert ours["launches"] < stock["launches"]
    assert stock["syncs"] >= 5 and stock["varying_launches"] in (True, False)
    assert ours["host_operators"] == stock["host_operators"] == 0
    assert not ours["varying_launches"]


def test_graph_breaks_are_those_of_compile_mode(tmp_path, capsys):
    assert audit(*TINY[:-1], "2", "--json", tmp_path / "ours.json", "--max-graph-breaks", 0) == 0
    assert json.loads((tmp_path / "ours.json").read_text())["graph_breaks"] == 0
    assert audit(*TINY[:-1], "2", "--step-mode", "mmdet", "--max-graph-breaks", 0) == 1
    assert "above the limit: graph breaks: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, message",
    [
        (("fcos/fcos_tiny_shape",), "fcos_tiny_shapes"),
        ((*TINY, "--steps", "1"), "at least 2"),
        ((*TINY, "--batch-size", "0"), "at least 1"),
        ((*TINY, "--cfg-options", "nonsense"), "key=value"),
    ],
)
def test_faults_of_the_user(args, message, capsys):
    assert audit(*args) == 2
    assert message in capsys.readouterr().err
