"""``fcos-train audit`` on shipped configs."""

import json

import pytest

from fcos_train.audit import step
from fcos_train.audit.trace import StepTrace
from fcos_train.cli.main import main

TINY = ("fcos/fcos_tiny_shapes", "--shape", "96", "128", "--device", "cpu", "--opt-level", "O0", "--steps", "3")


def audit(*args) -> int:
    return main(["audit", *map(str, args)])


def test_mmdets_head_waits_and_ours_has_fewer_launches(tmp_path, capsys):
    assert (
        audit(*TINY, "--json", tmp_path / "ours.json", "--max-syncs", 1, "--max-host-operators", 0, "--max-float64", 0)
        == 0
    )
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


def test_cpu_only_paths_are_not_counted():
    """A step on a CPU has oneDNN operators; the audit counts those of other devices."""
    config = "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco"
    options = step.AuditOptions(config, batch_size=1, shape=(96, 128), device="cpu", opt_level="O0", steps=2)
    trained = step.build(options)
    (_, counted) = step.trace_steps(trained, options)
    with StepTrace() as own:
        trained.model.train_step(step.made_up_batch(trained, 1, 1), trained.wrapper)
    in_place = "aten::threshold_backward.grad_input"  # of the blocks that run as one function
    assert own.launches[in_place] == 26 and counted.launches[in_place] == 0
    assert counted.launches["aten::convolution"] == 116  # 53, 8 of the neck, 8 + 3 for each level
