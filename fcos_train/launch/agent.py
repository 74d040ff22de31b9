"""torchrun for the shell launchers: ``python -m fcos_train.launch.agent ARGUMENTS``.

The same arguments and ranks as ``python -m torch.distributed.run``. When a signal stops the training, this one ends
with the status that ``docs/launching.md`` lists and without a traceback; SIGUSR1 reaches the ranks too.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# What these log of a failure is in the summary that follows; of a signal, in the lines of the training.
NOISY = ("torch.distributed.elastic.agent.server.api", "torch.distributed.elastic.multiprocessing.api")


def main(words: Sequence[str]) -> int:
    """Run torchrun.

    Returns:
        0, or the status after a signal: 0 for SIGUSR1, else 128 + n.

    Raises:
        ChildFailedError: a rank has failed; its text names the rank.
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
            except ChildFailedError:
                end = outcome(notes, 1)
                if end is None:
                    raise
    return 0 if end is None else int(str(end.code))


def _taken(parser: argparse.ArgumentParser, signals: str) -> list[str]:
    """The flag that names the signals, in versions of torch that have it."""
    flag = "--signals-to-handle"
    return [flag, signals] if signals and any(flag in action.option_strings for action in parser._actions) else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
