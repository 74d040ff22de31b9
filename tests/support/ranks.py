"""What the ranks of ``tests/unit/launch`` run instead of a training: ``run(options)``, without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmcv_overrides.errors import UserError

TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def run(options: dict) -> int:
    """Note the environment in ``options["folder"]``, then do what ``options["do"]`` says, on rank 1 only."""
    rank = os.environ["RANK"]
    folder = Path(options["folder"])
    (folder / rank).write_text("\n".join(f"{key}={os.environ.get(key)}" for key in TOLD))
    if options["do"] == "sleep":
        kid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        (folder / f"{rank}.pids").write_text(f"{os.getpid()} {kid.pid}")
        time.sleep(300)
    if rank == "1" and options["do"] == "refuse":
        raise UserError("the data are wrong\nline two", setting="data_path")
    if rank == "1" and options["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == "1" and options["do"] == "crash":
        raise RuntimeError("a fault of ours")
    if options["do"] != "end":
        time.sleep(300)  # ended by the agent
    return 0


if __name__ == "__main__":
    from fcos_train.launch.ranks import run_ranks

    sys.exit(run_ranks("tests.support.ranks", {"folder": sys.argv[1], "do": sys.argv[2]}, 2, "cpu"))
