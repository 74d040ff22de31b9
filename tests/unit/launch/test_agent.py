"""What the launchers hand to torchrun, and how its errors are told."""

import socket
from types import SimpleNamespace

import pytest

from fcos_train.launch import agent, recipe
from fcos_train.launch.recipe import Recipe, command, deadlines

BASE = dict(config="c.py", stem="c", work_dir="w", device_id="0", seed="0", opt_level="O1", loss_scale="32")
STATIC = "--nnodes 2 --node_rank {} --rdzv_conf timeout={} --master_addr 10.0.0.1 --master_port 23"
ELASTIC = "--nnodes 1:2 --rdzv_backend c10d --rdzv_endpoint 10.0.0.1:23 --rdzv_id fcos-train-23 --rdzv_conf "


@pytest.mark.parametrize(
    ("given", "words", "restarts"),
    [
        (dict(nnodes="2", node_rank="0"), STATIC.format(0, 600), "0"),
        (
            dict(nnodes="2", node_rank="1", dist_timeout="20", rendezvous_timeout="30", max_restarts="3"),
            "--watch-master 10.0.0.1 23 20 " + STATIC.format(1, 30),
            "3",
        ),
        (dict(nnodes="1:2", node_rank="0"), ELASTIC + "is_host=1,join_timeout=600,read_timeout=600", "0"),
        (
            dict(nnodes="1:2", node_rank="1", local_addr="10.0.0.2", rendezvous_timeout="30", max_restarts="2"),
            "--watch-master 10.0.0.1 23 600 " + ELASTIC + "is_host=0,join_timeout=30,read_timeout=30 "
            "--local_addr 10.0.0.2",
            "2",
        ),
    ],
)
def test_how_the_machines_find_each_other(given, words, restarts) -> None:
    settings = Recipe(**BASE, nproc="2", master_addr="10.0.0.1", **given)
    made = command(settings, "23", [])
    assert made[1:3] == ["-m", "fcos_train.launch.agent"]
    assert made[3 : made.index("--nproc_per_node")] == words.split()
    assert made[made.index("--max_restarts") + 1] == restarts
    assert settings.world == 4


def test_the_deadlines_reach_the_ranks_and_doctor() -> None:
    assert deadlines(Recipe(**BASE)) == {}
    given = Recipe(**BASE, dist_timeout="20", rendezvous_timeout="30")
    assert deadlines(given) == {"FCOS_DIST_TIMEOUT": "20", "FCOS_RENDEZVOUS_TIMEOUT": "30"}
    assert recipe.DIST_S == 600


def failure(code: int, message: str | dict) -> Exception:
    error = type("ChildFailedError", (Exception,), {})("the summary of torchrun")
    error.get_first_failure = lambda: (1, SimpleNamespace(exitcode=code, message=message))  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "status", "last"),
    [
        (failure(1, {"message": "training stopped while waiting for rank 0"}), 1, "training stopped while waiting"),
        (failure(2, "no such file"), 1, "no such file"),
        (failure(-9, "Signal 9 (SIGKILL) received"), 1, "rank 1 was ended by SIGKILL (too little memory?)"),
        (failure(1, "To enable traceback see: https://..."), 1, "rank 1 ended with status 1"),
        (
            type("RendezvousTimeoutError", (Exception,), {})("too late"),
            2,
            "the machines did not meet (too late). Start",
        ),
        (
            type("DistStoreError", (RuntimeError,), {})("wait timeout\nframes"),
            2,
            "the machines did not meet (wait timeo",
        ),
    ],
)
def test_the_cause_is_the_last_line(error, status, last, capsys) -> None:
    assert agent._explain(error) == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {last}")


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        agent._explain(ZeroDivisionError())


def test_a_machine_ends_when_the_first_one_is_lost_and_not_before_it_has_answered(monkeypatch, capsys) -> None:
    """By the clock of the test: the first machine answers from 100 to 108 s."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(agent.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(agent.time, "sleep", sleep)
    monkeypatch.setattr(agent, "answers", lambda address, port, seconds: 100 <= now[0] < 110)
    monkeypatch.setattr(agent, "kill_descendants", lambda: None)
    monkeypatch.setattr(agent.os, "_exit", leave)
    with pytest.raises(SystemExit, match="1"):
        agent.MasterWatch("10.0.0.1", 23, 10)._watch()
    assert now[0] == 140.0  # last answer at 108 s; 10 + 20 s later is over
    assert "error: the first machine (10.0.0.1:23) has not answered for 32 s" in capsys.readouterr().err


def test_whether_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert agent.answers("127.0.0.1", port, 1)
    assert not agent.answers("127.0.0.1", port, 1)
    assert agent.watched(["--nnodes", "2"]) == ["--nnodes", "2"]
