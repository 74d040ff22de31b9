"""``--devices N``: the ranks, their environment, how failures are told, and that nothing outlives them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine.run import train
from fcos_train.launch import network
from fcos_train.launch.ranks import run_ranks
from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from tests.support.commands import ROOT, environment, ok

MODULE = "tests.support.ranks"


def test_two_ranks_are_told_who_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(network, "cores", lambda: 6)
    before = dict(os.environ)
    assert run_ranks(MODULE, {"folder": str(tmp_path), "do": "end"}, 2, "cpu") == 0
    told = [dict(line.split("=") for line in (tmp_path / rank).read_text().splitlines()) for rank in "01"]
    assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in told] == [
        ("0", "0", "2", "2"),
        ("1", "1", "2", "2"),
    ]
    assert told[0]["MASTER_ADDR"] == "127.0.0.1" and told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"] != "None"
    assert {one["OMP_NUM_THREADS"] for one in told} == {"3"}
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("refuse", 2, "error (rank 1): the data are wrong\n  line two (flag: --data-path)\n"),
        ("die", 137, "error: rank 1 was ended by SIGKILL (too little memory?)\n"),
        ("crash", 1, "error (rank 1): RuntimeError: a fault of ours (its traceback is above)\n"),
    ],
)
def test_one_message_for_all_ranks(what, status, message, tmp_path, capfd) -> None:
    assert run_ranks(MODULE, {"folder": str(tmp_path), "do": what}, 2, "cpu") == status
    err = capfd.readouterr().err
    assert err.endswith(message) and (err == message) == (what != "crash")
    assert ("RuntimeError: a fault of ours" in err) == (what == "crash")


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all_ranks_and_what_they_have_started(tmp_path, sent, status) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", MODULE, str(tmp_path), "sleep"],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    files = [tmp_path / f"{rank}.pids" for rank in "01"]
    deadline = time.monotonic() + 100
    while not all(file.exists() and len(file.read_text().split()) == 2 for file in files):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    parent.send_signal(sent)
    err = parent.communicate(timeout=60)[1]
    assert parent.returncode == status and f"stopped by {sent.name}; the ranks have ended" in err
    time.sleep(0.2)
    assert [pid for pid in pids if living(pid)] == []


def test_too_many_devices(monkeypatch) -> None:
    few = SimpleNamespace(name="npu", count=lambda: 2)
    monkeypatch.setattr(device, "pick", lambda requested: (few, "fake"))
    with pytest.raises(UserError, match="--devices 8: this machine has 2 npu devices; use --devices 2 "):
        run_ranks(MODULE, {}, 8, "npu")


def test_environment_of_each_kind(monkeypatch) -> None:
    for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HCCL_CONNECT_TIMEOUT", "HCCL_IF_BASE_PORT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(network, "port_is_free", lambda port: port >= 60020)
    hccl = {"HCCL_CONNECT_TIMEOUT": "600", "HCCL_WHITELIST_DISABLE": "1"}
    assert network.rank_environment("npu", 8) == {**hccl, "HCCL_IF_BASE_PORT": "60032"}
    assert network.rank_environment("npu", 8, nodes=2) == hccl
    assert network.rank_environment("cuda", 8) == {}
    monkeypatch.setattr(network, "cores", lambda: 3)
    assert network.rank_environment("cpu", 8) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1200")
    assert "HCCL_CONNECT_TIMEOUT" not in network.rank_environment("npu", 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(devices=2, launcher="none"), "--devices starts the ranks itself"),
        (dict(devices=2, device="cuda:1"), "--device cuda:1 is one card, not 2"),
        (dict(devices=0), "--devices 0: must be at least 1"),
    ],
)
def test_contradictions_are_refused(flags, message) -> None:
    with pytest.raises(UserError, match=message):
        TrainOptions("c.py", **flags)
    with pytest.raises(UserError, match=message):
        EvalOptions(None, __file__, **flags)
    with pytest.raises(UserError, match="devices=2: fcos_train.launch.ranks.run_ranks starts"):
        train(TrainOptions("c.py", devices=2))


def test_train_on_two_devices_outside_a_clone(shapes, tmp_path) -> None:
    """Losses are compared in tests/dist; here the command, its folder and what follows from two ranks."""
    words = ["fcos/fcos_tiny_shapes", "--data-path", str(shapes), "--device=cpu", "--pretrained=none", "--seed=1"]
    words += ["--max-iters=2", "--workers=0", "--opt-level=O0", "--no-validate", "--batch-size=2", "--devices=2"]
    done = subprocess.run(
        [sys.executable, "-m", "fcos_train", "train", *words],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "2 processes" in ok(done).stdout and "(global batch 4 / base batch 8;" in done.stdout
    assert "Epoch [1][2/6]" in done.stdout and (tmp_path / "work_dirs" / "fcos_tiny_shapes" / "latest.pth").is_file()
