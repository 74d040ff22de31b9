"""Runs `fcos-train` commands as forks of one process that has already imported everything they use.

A command has a process of its own as it would from a shell, with its own folder, environment and output, and lacks the
three seconds of imports. The server has one thread, which a fork needs.

Protocol, over the socket whose file descriptor is the argument: the client sends a JSON line with ``program``,
``arguments``, ``folder``, ``environments`` (one for each process), ``stdout`` and ``stderr``; the server answers with
two lines, the process ids and then the exit status (negative: the signal that ended it).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "fcos_train" / "__main__.py"
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
        self,
        arguments: list[str],
        folder: Path = ROOT,
        timeout: float = 300,
        extra: dict[str, str] | None = None,
        program: Path | str = COMMAND,
        ranks: int = 1,
    ) -> subprocess.CompletedProcess[str]:
        """``fcos-train ARGUMENTS`` in a folder; or another program, or one process per rank as torchrun starts them.

        Args:
            extra: environment variables of this command, which nothing that the server has imported may have read.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` s and was killed.
        """
        environment = self._environment | (extra or {})
        environments = [environment | variables for variables in _variables(ranks)]
        with tempfile.TemporaryDirectory() as scratch:
            outputs = {name: Path(scratch) / name for name in ("stdout", "stderr")}
            request = {"arguments": arguments, "folder": str(folder), "program": str(program)}
            request |= {"environments": environments, **{name: str(path) for name, path in outputs.items()}}
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            processes = [int(word) for word in self._answers.readline().split()]
            self._socket.settimeout(timeout)
            try:
                status = int(self._answers.readline())
            except TimeoutError:
                for process in processes:
                    os.killpg(process, signal.SIGKILL)
                self.__init__(self._environment)  # a socket's file cannot be read after a timeout
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            finally:
                self._socket.settimeout(None)
            texts = {name: path.read_text() for name, path in outputs.items()}
        return subprocess.CompletedProcess(arguments, status, **texts)

    def begin(
        self, arguments: list[str], log: Path, extra: dict[str, str], program: Path | str = COMMAND, ranks: int = 1
    ) -> list[int]:
        """Start a command that :meth:`status` waits for; returns its process ids, each the leader of a group.

        Args:
            log: gets standard output and standard error.
        """
        environment = self._environment | extra
        environments = [environment | variables for variables in _variables(ranks)]
        request = {"arguments": arguments, "folder": str(ROOT), "program": str(program), "environments": environments}
        request |= {"stdout": str(log), "stderr": str(log)}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return [int(word) for word in self._answers.readline().split()]

    def status(self, timeout: float) -> int | None:
        """Exit status of what :meth:`begin` has started; None if it still runs after ``timeout`` s."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        return int(self._answers.readline())

    def close(self) -> None:
        """End the server."""
        self._answers.close()
        self._socket.close()


def _variables(ranks: int) -> list[dict[str, str]]:
    """What torchrun sets for each of its processes; nothing for a single one."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _serve(connection: socket.socket) -> dict:
    """Answer requests until the client leaves. Returns, in the process of a command, what that has to run."""
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            request, processes = json.loads(line), []
            for environment in request["environments"]:
                process = os.fork()
                if process == 0:
                    return {**request, "environment": environment}
                processes.append(process)
            print(*processes, file=lines, flush=True)
            print(_wait(processes), file=lines, flush=True)
    os._exit(0)


def _wait(processes: list[int]) -> int:
    """The exit status; of several processes 0, or 1 if one failed, whereupon the others are ended."""
    running, status = set(processes), 0
    while running:
        process, ended = os.wait()
        running.discard(process)
        code = os.waitstatus_to_exitcode(ended)
        if code and not status:
            status = code if len(processes) == 1 else 1
            for other in running:
                os.kill(other, signal.SIGTERM)
    return status


def _become(request: dict) -> None:
    """Give this process what a shell would have given it."""
    os.setpgid(0, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # ranks share it
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["program"], *request["arguments"]]
    sys.path[0] = request["folder"]


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    from fcos_train.start import start

    start()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
    end = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as raised:
        end = int(raised.code or 0)
    from fcos_train.__main__ import leave

    leave(end)  # destroying all that the server imported would take half a second
