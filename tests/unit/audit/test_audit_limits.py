"""Every ``--max-...`` flag of ``fcos-train audit`` against the figure it limits."""

from types import SimpleNamespace

import pytest

from fcos_train.audit import step
from fcos_train.audit import summary as reports
from fcos_train.cli.audit import Limits
from fcos_train.cli.main import main

LIMITS = [name.removeprefix("max_") for name in Limits.__dataclass_fields__]
TINY = (
    "audit",
    "fcos/fcos_tiny_shapes",
    "--shape",
    "96",
    "128",
    "--device",
    "cpu",
    "--opt-level",
    "O0",
    "--steps",
    "2",
)


@pytest.fixture
def figures(monkeypatch):
    """An audit without a model, in which every figure is a different number."""
    values = {name: 11 + index for index, name in enumerate(LIMITS)}
    made = reports.Report(**{**values, "graph_breaks": None}, first_signatures=0, varying_launches=False)
    trained = SimpleNamespace(shape=(96, 128), accelerator=SimpleNamespace(name="cpu"), notes=[])
    monkeypatch.setattr(step, "build", lambda options: trained)
    monkeypatch.setattr(step, "trace_steps", lambda trained, options: [])
    monkeypatch.setattr(step, "graph_breaks", lambda trained, options: (values["graph_breaks"], ["a reason"]))
    monkeypatch.setattr(reports, "summarise", lambda traces: made)
    return values


@pytest.mark.parametrize("name", LIMITS)
def test_exit_status_1_above_a_limit_and_0_at_it(name, figures, capsys):
    flag = f"--max-{name.replace('_', '-')}"
    assert main([*TINY, flag, str(figures[name])]) == 0
    assert "above the limit" not in capsys.readouterr().out
    assert main([*TINY, flag, str(figures[name] - 1)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("above the limit")]
    assert line == f"above the limit: {name.replace('_', ' ')}: {figures[name]}, the limit is {figures[name] - 1}"


def test_all_that_are_above_are_named(figures, capsys):
    flags = [word for name in LIMITS for word in (f"--max-{name.replace('_', '-')}", "0")]
    assert main([*TINY, *flags]) == 1
    assert capsys.readouterr().out.count("above the limit") == len(LIMITS)


def test_breaks_that_cannot_be_told_are_above_any_limit(figures, monkeypatch, capsys):
    monkeypatch.setattr(step, "graph_breaks", lambda trained, options: (None, ["Unsupported: something"]))
    assert main([*TINY, "--max-graph-breaks", "1000"]) == 1
    out = capsys.readouterr().out
    assert "above the limit: graph breaks: not known" in out and "Unsupported: something" in out
