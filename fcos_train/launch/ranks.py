"""``--devices N``: N ranks of a command on this machine, through the Python API of torchrun.

The agent of torchrun starts the ranks, gives them a store on a free port, and ends all of them when one fails or when
this process is told to stop. Here is what it leaves open: the number of devices is checked before, the environment of
HCCL and the threads are set, a user error is told once and not by every rank, and nothing that a rank has started
outlives it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fcos_train.launch.network import rank_environment
from fcos_train.launch.stopped_ranks import SignalException, names, outcome, passed_on
from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from mmcv_overrides.signals import Stopped

LOOPBACK = "127.0.0.1"
AGENT = "torch.distributed."  # its loggers


def run_ranks(module: str, options: Any, ranks: int, requested: str, restarts: int = 0) -> int:
    """Run a command in ``ranks`` processes of this machine, one for each device, and wait for them.

    Args:
        module: that has the command, a function ``run(options) -> int``. options: picklable.
        requested: the device that was asked for; on a CPU the ranks are processes that share its cores.
        restarts: how often all ranks are started again after a failure.

    Returns:
        0, or the status of the rank that failed first: 2 for a user error, 128 + n if signal n has killed it.

    Raises:
        UserError: this machine has too few devices.
        Stopped: a signal has stopped the ranks.
    """
    kind = _checked_kind(requested, ranks)
    with tempfile.TemporaryDirectory(prefix="fcos-train-") as name:
        folder = Path(name)
        (folder / "options").write_bytes(pickle.dumps((module, options)))
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=folder.name,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOOPBACK}:0",
            local_addr=LOOPBACK,
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(log_dir=name),
            **_signals(),
        )
        failed: dict[int, ProcessFailure] = {}
        number = None
        with _environment(rank_environment(kind, ranks)), _quiet_agent(), passed_on(folder):
            try:
                elastic_launch(settings, sys.executable)("-P", "-m", "fcos_train.cli.rank", name)
            except ChildFailedError as error:
                failed = error.failures
            except SignalException as error:
                number = error.sigval
            finally:
                _end_families(folder)
        end = outcome(folder, ranks, number)
        refused = sorted(folder.glob("*.error"))  # of a rank that could not save
        if failed and (end is None or refused):
            return _tell(*_cause(failed), folder)
        if end is not None and refused:
            return _tell(int(refused[0].stem), 2, folder)
        if end is not None:
            raise _told(end)
    return 0


def _signals() -> dict[str, Any]:
    """The setting of the agent that names the signals, in versions of torch that have it."""
    known = {field.name for field in fields(LaunchConfig)}
    return {"signals_to_handle": names()} if "signals_to_handle" in known and names() else {}


def _told(end: Stopped) -> Stopped:
    print(f"stopped by {end.signal.name}; the ranks have ended", file=sys.stderr)
    end.together = True  # nothing more is to be said
    return end


def _checked_kind(requested: str, ranks: int) -> str:
    """The kind of device.

    Raises:
        UserError: there are fewer devices than ranks.
    """
    accelerator, _ = device.pick(requested)
    count = accelerator.count()
    if accelerator.name != "cpu" and ranks > count:
        raise UserError(
            f"--devices {ranks}: this machine has {count} {accelerator.name} device{'s' if count != 1 else ''}; use "
            f"--devices {count} (or --device cpu, where ranks are processes)"
        )
    return accelerator.name


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """The environment that the ranks inherit, with the modules of this process; put back afterwards."""
    before = dict(os.environ)
    os.environ.update(more, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet_agent() -> Iterator[None]:
    """Without the agent's own report of a failure, which is long and repeats what is told here."""
    known = logging.root.manager.loggerDict  # each has a level of its own
    loggers = [one for name, one in known.items() if name.startswith(AGENT) and isinstance(one, logging.Logger)]
    disabled = [one.disabled for one in loggers]
    for one in loggers:
        one.disabled = True
    try:
        yield
    finally:
        for one, before in zip(loggers, disabled, strict=True):
            one.disabled = before


def _cause(failures: dict[int, ProcessFailure]) -> tuple[int, int]:
    """The rank that failed first, and its exit code; not one that the agent has ended because of it."""
    ended = -signal.SIGTERM
    rank = min(failures, key=lambda one: (failures[one].exitcode == ended, failures[one].timestamp, one))
    return rank, failures[rank].exitcode


def _tell(rank: int, code: int, folder: Path) -> int:
    """Print why the training has failed. Returns the exit status."""
    said = folder / f"{rank}.error"
    who = "error" if rank == 0 else f"error (rank {rank})"
    if said.is_file():
        print(f"{who}: {said.read_text(encoding='utf-8')}", file=sys.stderr)
    elif code < 0:
        reason = " (too little memory?)" if -code == signal.SIGKILL else ""
        print(f"error: rank {rank} was ended by {signal.Signals(-code).name}{reason}", file=sys.stderr)
    else:
        print(f"error: rank {rank} ended with status {code}; the reason is above", file=sys.stderr)
    return code if code > 0 else 128 - code


def _end_families(folder: Path) -> None:
    """End what the ranks have started, such as loader processes: each rank leads a process group of its own."""
    for file in folder.glob("*.pid"):
        with suppress(ProcessLookupError, PermissionError, ValueError):
            os.killpg(int(file.read_text()), signal.SIGKILL)
