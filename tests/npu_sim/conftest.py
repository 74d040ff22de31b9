"""Runs the product on a simulated NPU, in separate processes: a registered device cannot be removed.

With ``NPU_REAL=1`` the same commands run on a real NPU, and tests that need the counts of the simulator are skipped.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.command_server import CommandServer

HERE = Path(__file__).resolve().parent
REAL = os.environ.get("NPU_REAL") == "1"


class Npu:
    """Runs commands in an environment that has ``--device npu``."""

    def __init__(self, library: Path | None):
        self.env = {"NPU_SIM_STRICT": "1"}
        if library is not None:
            # commands.environment() puts the repository on PYTHONPATH; ours must come before it
            self.env.update(
                NPU_SIM_LIBRARY=str(library), PYTHONPATH=os.pathsep.join([str(HERE / "stand_in"), str(commands.ROOT)])
            )

    def run(self, *args, **env) -> subprocess.CompletedProcess:
        """``fcos-train ARGS``. The server has imported the device's library, which has read its own variables."""
        return self._server.run(list(map(str, args)), extra=env)

    @functools.cached_property
    def _server(self) -> CommandServer:
        return CommandServer(commands.environment(**self.env))

    def run_ranks(self, ranks: int, *args, **env) -> subprocess.CompletedProcess:
        return self._server.run([*map(str, args), "--launcher", "pytorch"], extra=env, ranks=ranks)

    def python(self, *args, **env) -> subprocess.CompletedProcess:
        return commands._finish([sys.executable, *map(str, args)], None, 300, {**self.env, **env})

    def count(self, *args) -> dict:
        """The counts that ``inside/steps.py ARGS`` prints as its last line."""
        if REAL:
            pytest.skip("only the simulated device counts launches")
        done = self._server.run(list(map(str, args)), program=HERE / "inside" / "steps.py")
        return json.loads(commands.ok(done).stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def npu() -> Npu:
    if REAL:
        return Npu(None)
    spec = importlib.util.spec_from_file_location("npu_sim_build", HERE / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    missing = build.missing_tools()
    if missing:
        pytest.skip(missing)
    return Npu(build.library())
