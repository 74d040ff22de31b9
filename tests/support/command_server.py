"""Runs `fcos-train` commands as forks of one process that has already imported everything they use.

A command has a process of its own as it would from a shell, with its own folder, environment and output, and lacks the
three seconds of imports. The server has one thread, which a fork needs.

Protocol, over the socket whose file descriptor is the argument: the client sends a JSON line with ``arguments``,
``folder``, ``environment``, ``stdout`` and ``stderr``; the server answers with two lines, the process id and then the
exit status (negative: the signal that ended it).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "fcos_train.engine",
    "fcos_train.evaluation",
    "fcos_train.infer",
    "fcos_train.cli.main",
    "fcos_train.cli.train",
    "fcos_train.cli.eval",
    "fcos_train.config.prepare",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "scipy.optimize",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "yapf",
)


class CommandServer:
    """The client's side: starts the server and asks it for one command at a time.

    Args:
        environment: environment variables of the server and of each command.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._socket, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.command_server", str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
            )
        self._answers = self._socket.makefile("r")

    def run(
        self, arguments: list[str], folder: Path = ROOT, timeout: float = 300, extra: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``fcos-train ARGUMENTS`` in a folder.

        Args:
            extra: environment variables of this command, which nothing that the server has imported may have read.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` s and was killed.
        """
        with tempfile.TemporaryDirectory() as scratch:
            outputs = {name: Path(scratch) / name for name in ("stdout", "stderr")}
            request = {"arguments": arguments, "folder": str(folder), "environment": self._environment | (extra or {})}
            line = json.dumps({**request, **{name: str(path) for name, path in outputs.items()}})
            self._socket.sendall(line.encode() + b"\n")
            process = int(self._answers.readline())
            self._socket.settimeout(timeout)
            try:
                status = int(self._answers.readline())
            except TimeoutError:
                os.killpg(process, 9)
                self.__init__(self._environment)  # a socket's file cannot be read after a timeout
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            finally:
                self._socket.settimeout(None)
            texts = {name: path.read_text() for name, path in outputs.items()}
        return subprocess.CompletedProcess(arguments, status, **texts)


def _serve(connection: socket.socket) -> dict:
    """Answer requests until the client leaves. Returns, in the process of a command, what that has to run."""
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            process = os.fork()
            if process == 0:
                return json.loads(line)
            print(process, file=lines, flush=True)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            print(status, file=lines, flush=True)
    os._exit(0)


def _become(request: dict) -> None:
    """Give this process what a shell would have given it."""
    os.setpgid(0, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(ROOT / "fcos_train" / "__main__.py"), *request["arguments"]]
    sys.path[0] = request["folder"]


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    from fcos_train.start import start

    start()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
    try:
        runpy.run_module("fcos_train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        from fcos_train.__main__ import leave

        leave(int(end.code or 0))  # destroying all that the server imported would take half a second
