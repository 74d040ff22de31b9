"""torchrun for the launchers: ``python -m fcos_train.launch.agent WORDS``, with the words of torchrun.

It is torchrun itself (``torch.distributed.run``). What differs: the cause of a failure is printed last; a machine that
has lost the first one ends, where torchrun's agent would wait until TCP gives up; and when a signal stops the training,
this one ends with the status that ``docs/launching.md`` lists and without a traceback. SIGUSR1 reaches the ranks too.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mmcv_overrides.signals import kill_descendants

# What these log of a failure is in the summary that follows; of a signal, in the lines of the training.
NOISY = ("torch.distributed.elastic.agent.server.api", "torch.distributed.elastic.multiprocessing.api")
BEAT_S = 2.0  # between two looks at the first machine
GRACE_S = 20.0  # beyond the timeout, in which ranks may end themselves
LOST = 1  # exit status


class MasterWatch:
    """Ends this process and its ranks when the first machine has not answered for too long.

    It begins when that machine answers for the first time; until then the rendezvous has a timeout of its own.

    Args:
        address, port: of the first machine. timeout: s.
    """

    def __init__(self, address: str, port: int, timeout: float) -> None:
        self.address, self.port, self.timeout = address, port, timeout

    def start(self) -> None:
        """Look at it from now on, in a thread."""
        threading.Thread(target=self._watch, name="watch of the first machine", daemon=True).start()

    def _watch(self) -> None:
        answered: float | None = None
        while True:
            if answers(self.address, self.port, BEAT_S):
                answered = time.monotonic()
            elif answered is not None and time.monotonic() - answered > self.timeout + GRACE_S:
                self._give_up(time.monotonic() - answered)
            time.sleep(BEAT_S)

    def _give_up(self, silent: float) -> None:
        kill_descendants()
        say(f"the first machine ({self.address}:{self.port}) has not answered for {silent:.0f} s; this machine ends")
        os._exit(LOST)


def answers(address: str, port: int, seconds: float) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False


def say(text: str) -> None:
    """Print an error as the last line."""
    sys.stdout.flush()
    print(f"error: {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    """Run torchrun.

    Returns:
        0, 1 if a rank has failed, 2 if the machines did not meet; after a signal 0 for SIGUSR1, else 128 + n.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from fcos_train.launch.stopped_ranks import SignalException, names, outcome, passed_on

    parser = run.get_args_parser()
    ranks = parser.parse_args(words).nproc_per_node
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fcos-train-") as folder:
        notes = Path(folder)
        with passed_on(notes):
            try:
                run.main([*_taken(parser, names()), *words])
                end = outcome(notes, 1)
            except SignalException as error:
                end = outcome(notes, int(ranks) if ranks.isdecimal() else 1, error.sigval)
            except Exception as error:
                end = outcome(notes, 1) if isinstance(error, ChildFailedError) else None
                if end is None:
                    return _explain(error)
    return 0 if end is None else int(str(end.code))


def _taken(parser: argparse.ArgumentParser, signals: str) -> list[str]:
    """The flag that names the signals, in versions of torch that have it."""
    flag = "--signals-to-handle"
    return [flag, signals] if signals and any(flag in action.option_strings for action in parser._actions) else []


def _explain(error: Exception) -> int:
    """Print why torchrun has ended. Its errors are told by name, because some are private."""
    name = type(error).__name__
    if name == "ChildFailedError":
        print(error, file=sys.stderr)
        say(_cause(error))
        return 1
    if name.startswith("Rendezvous") or name in ("DistNetworkError", "DistStoreError"):
        reason = (str(error).strip().splitlines() or [name])[0]
        say(
            f"the machines did not meet ({reason}). Start every node, and check --master_addr, --master_port and that "
            "they can be reached from all machines (--rendezvous_timeout changes how long they wait)"
        )
        return 2
    raise error


def _cause(error: Exception) -> str:
    """What the rank that failed first has said."""
    rank, failure = error.get_first_failure()  # type: ignore[attr-defined]
    said = failure.message
    text = str(said.get("message", "")) if isinstance(said, dict) else str(said)
    if failure.exitcode < 0:
        number = -failure.exitcode
        reason = " (too little memory?)" if number == signal.SIGKILL else ""
        return f"rank {rank} was ended by {signal.Signals(number).name}{reason}"
    return text if text and "To enable traceback" not in text else f"rank {rank} ended with status {failure.exitcode}"


def watched(words: Sequence[str]) -> list[str]:
    """Start the watch that ``--watch-master ADDRESS PORT SECONDS`` in front of torchrun's words asks for."""
    if words[:1] != ["--watch-master"]:
        return list(words)
    address, port, seconds = words[1:4]
    MasterWatch(address, int(port), float(seconds)).start()
    return list(words[4:])


if __name__ == "__main__":
    sys.exit(main(watched(sys.argv[1:])))
