"""``fcos-train`` on two machines at once, each a fork in a network namespace, so that neither imports anything anew.

Called as a program through :func:`tests.support.commands.run_script` with one JSON object::

    {"namespaces": [a, b], "words": [[...], [...]], "log": FOLDER, "delays": [s, s],
     "before": [PYTHON, PYTHON]}

``before`` is Python that a node runs first, such as a fake version. Prints ``[[status, seconds], [status, seconds]]``;
the output of node N is in ``FOLDER/N.txt``.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """Move this process, which must have one thread, to a network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(handle)


def start(task: dict, node: int) -> int:
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        file = os.open(Path(task["log"]) / f"{node}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        enter(task["namespaces"][node])
        time.sleep(task["delays"][node])
        exec(task["before"][node], {})
        from fcos_train.cli.main import main

        status = main(task["words"][node])
        sys.stdout.flush()
    finally:
        os._exit(status)


def run(task: dict) -> list[list[float]]:
    begin = time.monotonic()
    nodes = {start(task, node): node for node, words in enumerate(task["words"]) if words}
    ends: dict[int, list[float]] = {}
    while nodes:
        process, status = os.wait()
        ends[nodes.pop(process)] = [os.waitstatus_to_exitcode(status), round(time.monotonic() - begin, 2)]
    return [ends[node] for node in sorted(ends)]


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
