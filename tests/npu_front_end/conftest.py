"""Runs the product on the real torch_npu with stub libraries, in separate processes; see README.md."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import commands

HERE = Path(__file__).resolve().parent


class FrontEnd:
    """Runs commands in an environment where ``import torch`` loads the real torch_npu."""

    def __init__(self, environment: dict[str, str]):
        self.env = environment

    def run(self, *args, **env: str) -> subprocess.CompletedProcess:
        """``fcos-train ARGS``."""
        return commands.run(*args, **{**self.env, **env})

    def run_ranks(self, ranks: int, *args, **env: str) -> subprocess.CompletedProcess:
        return commands.torchrun(ranks, *args, "--launcher", "pytorch", **{**self.env, **env})

    def python(self, *args) -> subprocess.CompletedProcess:
        return commands._finish([sys.executable, *map(str, args)], None, 300, self.env)

    def without_runtime(self, *args, **env: str) -> subprocess.CompletedProcess:
        """``fcos-train ARGS`` with torch_npu installed and without Ascend's libraries."""
        return self.run(*args, **{"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""), **env})


@pytest.fixture(scope="session")
def npu() -> FrontEnd:
    spec = importlib.util.spec_from_file_location("npu_front_end_build", HERE / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    try:
        return FrontEnd(build.environment())
    except build.Unavailable as reason:
        pytest.skip(str(reason))
