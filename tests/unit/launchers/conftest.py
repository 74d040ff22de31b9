"""A copy of the launchers beside a fake ``fcos_train`` that records how it was called and prints a recorded log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

FAKE_TRAINER = '''"""FAKE trainer: records its call, prints a recorded log, exits as told. The verb summary is real."""
import json, os, pathlib, shutil, subprocess, sys, time

if sys.argv[1] == "summary":
    for name in [name for name in sys.modules if name.split(".")[0] in ("fcos_train", "mmcv_overrides")]:
        del sys.modules[name]
    sys.path[0] = REAL_ROOT
    from fcos_train.cli.main import main
    sys.exit(main())
record = pathlib.Path(os.environ["FAKE_RECORD"])
if sys.argv[1] == "doctor":  # several machines
    (record / "doctor.json").write_text(json.dumps(sys.argv[2:]))
    sys.exit(int(os.environ.get("FAKE_DOCTOR", "0")))
rank = os.environ.get("RANK", "0")
call = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
(record / f"call{rank}.json").write_text(json.dumps(call))
work_dir = record.parent / os.environ.get("FAKE_WORK_DIR", "chosen work dir")
if {"FAKE_BATCH", "FAKE_CONFIG", "FAKE_JSON"} & set(os.environ):
    work_dir.mkdir(parents=True, exist_ok=True)
    print(f"work dir: {work_dir} (--overwrite: the run in it is replaced)", flush=True)
if "FAKE_BATCH" in os.environ:
    (work_dir / "config.py").write_text(f"train_dataloader = dict(batch_size={os.environ['FAKE_BATCH']})\\n")
if "FAKE_CONFIG" in os.environ:
    (work_dir / "config.py").write_text(os.environ["FAKE_CONFIG"])
if rank == "0":
    log = pathlib.Path(os.environ["FAKE_LOG"]).read_text() if "FAKE_LOG" in os.environ else "a line of the log"
    print(log, flush=True)
    if "FAKE_JSON" in os.environ:
        shutil.copy(os.environ["FAKE_JSON"], work_dir / "20260101_120000.log.json")
if "FAKE_SLEEP" in os.environ:
    kid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (record / f"pids{rank}").write_text(f"{os.getpid()} {kid.pid}")
    time.sleep(300)
if "FAKE_ERROR" in os.environ:
    os.write(2, ("error: " + os.environ["FAKE_ERROR"] + "\\n").encode())  # one write: ranks share the file
if "FAKE_EXIT" in os.environ:
    # torchrun ends the other ranks when one has failed: all leave a record first
    until = time.monotonic() + 30
    others = [record / f"call{other}.json" for other in range(int(os.environ.get("WORLD_SIZE", "1")))]
    while time.monotonic() < until and not all(other.exists() for other in others[1:]):
        time.sleep(0.01)
sys.exit(int(os.environ.get("FAKE_EXIT", "0")))
'''.replace("REAL_ROOT", repr(str(ROOT)))

FAKE_TORCHRUN = '''"""FAKE torchrun of the launcher tests: records its own arguments and runs one rank."""
import argparse, json, os, pathlib, runpy, sys

def get_args_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nproc_per_node")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    parser.parse_args = lambda words: parser.parse_known_args(words[:words.index("-m")])[0]
    return parser

def main(words):
    at = words.index("-m")
    (pathlib.Path(os.environ["FAKE_RECORD"]) / "torchrun.json").write_text(json.dumps(words[:at]))
    sys.argv = words[at + 1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
'''

FAKE_DEVICE = '''"""FAKE devices of the launcher tests: as many as FAKE_DEVICES says, e.g. "npu 2"."""
import os
from types import SimpleNamespace
from .errors import UserError

def pick(requested="auto"):
    name, count = os.environ.get("FAKE_DEVICES", "cpu 0").split()
    if requested not in ("auto", name):
        raise UserError(f"--device {requested}: not here")
    return SimpleNamespace(name=name, count=lambda: int(count)), "fake"

def cores():
    return 2
'''

CLEARED = (
    "PORT",
    "ASCEND_DEVICE_ID",
    "RANK_SIZE",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "etp_running_flag",
    "FCOS_FOLLOW",
    "PYTHONPATH",
)


@dataclass
class Sandbox:
    """A small repository with the real shell scripts and a fake trainer."""

    root: Path
    data: Path
    record: Path
    env: dict[str, str] = field(default_factory=dict)

    def command(self, script: str, *flags: str) -> tuple[list[str], dict[str, str]]:
        env = {k: v for k, v in os.environ.items() if k not in CLEARED and not k.startswith(("HCCL", "GLOO", "NCCL"))}
        env |= {"PYTHON": sys.executable, "FAKE_RECORD": str(self.record), "ASCEND_INSTALL_INFO": "/nonexistent"}
        return ["bash", str(self.root / script), *flags], env | self.env

    def run(self, script: str, *flags: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        command, base = self.command(script, *flags)
        return subprocess.run(
            command, cwd=cwd or self.root, env=base | env, capture_output=True, text=True, timeout=120
        )

    def call(self, rank: int = 0) -> dict:
        return json.loads((self.record / f"call{rank}.json").read_text())

    def argv(self) -> list[str]:
        return self.call()["argv"]

    def torchrun(self) -> list[str]:
        return json.loads((self.record / "torchrun.json").read_text())

    def called(self) -> bool:
        return (self.record / "call0.json").exists()

    def log(self, text: str) -> str:
        """Writes what the fake trainer prints; returns the path for FAKE_LOG."""
        path = self.record / "recorded.log"
        path.write_text(text)
        return str(path)

    def json_log(self, *records: dict) -> str:
        """Writes what the fake trainer leaves as its JSON log; returns the path for FAKE_JSON."""
        path = self.record / f"recorded{len(list(self.record.glob('recorded*.json')))}.json"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    def output(self, device_id: int = 0) -> Path:
        return self.root / "test" / "output" / str(device_id)

    @property
    def speed_output(self) -> Path:
        return self.output() / "performance"


@pytest.fixture
def real_torchrun(tmp_path) -> Sandbox:
    """The sandbox with torch's own launcher; slower to start."""
    root = tmp_path / "repo"
    for folder in ("test", "scripts"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("output", "__pycache__"))
    for package in ("fcos_train", "mmcv_overrides"):
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    (root / "fcos_train" / "__main__.py").write_text(FAKE_TRAINER)
    (root / "fcos_train" / "cli").mkdir()
    (root / "fcos_train" / "cli" / "__init__.py").touch()
    shutil.copy(ROOT / "fcos_train" / "cli" / "newest.py", root / "fcos_train" / "cli")
    shutil.copytree(ROOT / "fcos_train" / "launch", root / "fcos_train" / "launch")
    for module in ("network.py", "signals.py"):
        shutil.copy(ROOT / "mmcv_overrides" / module, root / "mmcv_overrides")
    (root / "mmcv_overrides" / "errors.py").write_text("class UserError(Exception): ...\n")
    (root / "mmcv_overrides" / "device.py").write_text(FAKE_DEVICE)
    config = root / "configs" / "fcos" / "fcos_r50_caffe_fpn_4x4_1x_coco.py"
    config.parent.mkdir(parents=True)
    config.touch()
    data, record = tmp_path / "datasets" / "coco", tmp_path / "record"
    data.mkdir(parents=True)
    record.mkdir()
    return Sandbox(root, data, record)


@pytest.fixture
def sandbox(real_torchrun) -> Sandbox:
    """The sandbox with a fake torchrun that runs rank 0 alone."""
    package = real_torchrun.root / "torch" / "distributed"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(FAKE_TORCHRUN)
    errors = package / "elastic" / "multiprocessing" / "errors"
    errors.mkdir(parents=True)
    for folder in (errors, errors.parent, errors.parent.parent):
        (folder / "__init__.py").write_text("class ChildFailedError(Exception): ...\n")
    (errors.parent / "api.py").write_text("class SignalException(Exception): ...\n")
    return real_torchrun
