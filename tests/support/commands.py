"""Runs the real commands as a user does, each in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.support.command_server import CommandServer

ROOT = Path(__file__).resolve().parents[2]
EXACT = ROOT / "tests" / "support" / "exact.py"
# For long trainings: the default precision, or fp32 on a processor that only emulates bf16, where bf16 takes four times
# as long.
QUICK_LEVEL = "O1" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "O0"


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment without a trace of torchrun, one thread a process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    return {**env, **extra}


def _finish(command: list[str], cwd: Path | None, timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd or ROOT, env=environment(**env), capture_output=True, text=True, timeout=timeout
    )


@functools.cache
def _server() -> CommandServer:
    return CommandServer(environment())


def run(*args, cwd: Path | None = None, timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
    """``fcos-train ARGS``; output is captured, the exit status is the caller's to judge.

    With environment variables of its own it is a new interpreter, which reads them; else a fork of one that is ready.
    """
    if env:
        return _finish([sys.executable, "-m", "fcos_train", *map(str, args)], cwd, timeout, env)
    return _server().run(list(map(str, args)), cwd or ROOT, timeout)


def run_script(script: Path, *args, cwd: Path | None = None, ranks: int = 1, **env: str) -> subprocess.CompletedProcess:
    """``python SCRIPT ARGS`` as a fork of an interpreter that has imported the product; ``ranks``: with gloo, one each.

    ``env``: environment variables of the script, which nothing that was imported may have read.
    """
    return _server().run(list(map(str, args)), cwd or ROOT, extra=env, program=str(script), ranks=ranks)


def run_ranks(ranks: int, *args, launcher: bool = True) -> subprocess.CompletedProcess:
    """One process per rank, with gloo, ``--launcher pytorch`` and the environment that torchrun would set."""
    return _server().run([*map(str, args), *(["--launcher", "pytorch"] if launcher else [])], ranks=ranks)


def torchrun(ranks: int, *args, **env: str) -> subprocess.CompletedProcess:
    """``torchrun -m fcos_train ARGS`` with gloo ranks on this machine and a free port."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return _finish([*launch, "-m", "fcos_train", *map(str, args)], None, 300, env)


def ok(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def refused(done: subprocess.CompletedProcess) -> str:
    """The one clear message of a user error: exit status 2, no traceback."""
    assert done.returncode == 2, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return message


def log_records(work_dir: Path, mode: str = "train") -> list[dict]:
    """All records of a mode in the JSON logs of a work dir, oldest file first."""
    lines = [line for file in sorted(work_dir.glob("*.log.json")) for line in file.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if record["mode"] == mode]


def exact(done: subprocess.CompletedProcess) -> dict[tuple[int, int], tuple[float, str]]:
    """(rank, iteration) -> (loss with all its bits, image ids), from the config ``tests/support/exact.py``."""
    found = re.findall(r"^exact (\d+) (\d+) (\S+) (\S+) \S+$", done.stdout, re.MULTILINE)
    return {(int(rank), int(it)): (float.fromhex(loss), images) for rank, it, loss, images in found}


def moments(text: str, rank: int = 0) -> list[float]:
    """When each iteration of a rank ended, s, by the clock of the test's own hook."""
    return [float(t) for t in re.findall(rf"^exact {rank} \d+ \S+ \S+ (\S+)$", text, re.MULTILINE)]
