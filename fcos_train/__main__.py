"""``python -m fcos_train``: the command, also as torchrun starts it."""

import atexit
import logging
import os
import sys
import traceback

from fcos_train.cli.main import main
from mmcv_overrides.errors import tell_torchrun


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


def rank_main() -> int:
    """:func:`main` for one of several ranks: an exception is told at once, not when gloo's threads have ended."""
    try:
        return main()
    except Exception as error:
        traceback.print_exc()
        tell_torchrun(f"{type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_ID" in os.environ:
        leave(rank_main())
    sys.exit(main())
