"""``python -m fcos_train``: the command, also as torchrun starts it."""

import atexit
import logging
import os
import sys

from fcos_train.cli.main import main


def leave(status: int) -> None:
    """End a rank without destroying C++ threads.

    Those of gloo sometimes abort the process when the interpreter exits, which would turn a finished training, or the
    message of a user error, into a crash.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    exit_status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_ID" in os.environ:
        leave(exit_status)
    sys.exit(exit_status)
