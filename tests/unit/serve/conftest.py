"""A served checkpoint with random weights, in a process of its own that counts where it connects to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fcos_train.infer.detector import Detector
from tests.support.commands import ROOT, environment
from tests.support.small_detectors import small_config, write_checkpoint

TOKEN = "token-of-the-test"
# A connection that leaves the machine is printed; nothing but an exception would end the library's attempt.
SERVER = """
import sys
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("leaves the machine:", arguments[1], flush=True)
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost"):
        print("leaves the machine:", arguments[0], flush=True)
sys.addaudithook(watch)
from fcos_train.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen
    folder: Path
    base: str = ""
    lines: list[str] = field(default_factory=list)

    def client(self) -> httpx.Client:
        """Sends the token, and uses no proxy."""
        return httpx.Client(
            base_url=self.base, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=120
        )

    def resident(self) -> float:
        """Memory of the process, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000


def start_server(folder: Path, *arguments: str) -> Served:
    """Start the command and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, "serve", *arguments],
        cwd=ROOT,
        env=environment(TMPDIR=str(folder), PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a suite in the background
    )
    served = Served(process, folder)
    for line in process.stdout:
        served.lines.append(line.rstrip())
        if found := re.search(r"served at (http://[^/]+)/", line):
            served.base = found[1]
        if line.startswith("limits: "):
            break
    assert served.base, served.lines
    threading.Thread(target=lambda: served.lines.extend(map(str.rstrip, process.stdout)), daemon=True).start()
    return served


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Its scores reach from 0.05 to 0.9; at most 100 boxes for an image."""
    config = small_config("fcos-gn")
    config.test_dataloader.dataset.pipeline[1].scale = (160, 128)
    config.model.test_cfg.update(max_per_img=100, score_thr=0.05)
    return write_checkpoint(tmp_path_factory.mktemp("served") / "tiny.pth", config)


@pytest.fixture(scope="session")
def running() -> list[Served]:
    """The servers of this session; all but the last have ended."""
    servers: list[Served] = []
    yield servers
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def served(checkpoint, running, tmp_path_factory) -> Served:
    """The server, started once; the test that ends it comes last."""
    pytest.importorskip("gradio", reason="needs the extra [web]")
    pytest.importorskip("fastapi_offline", reason="needs the extra [web]")
    if not running or running[-1].process.poll() is not None:
        limits = ("--max-upload", "1", "--max-pixels", "2", "--max-video", "2")
        folder = tmp_path_factory.mktemp("temporary")
        running.append(
            start_server(folder, str(checkpoint), "--device", "cpu", "--port", "0", "--token", TOKEN, *limits)
        )
    return running[-1]


@pytest.fixture(scope="session")
def detector(checkpoint) -> Detector:
    """The model that is served, in this process."""
    return Detector.from_checkpoint(checkpoint, device="cpu")
