"""Runs a Python program with the overrides in place from its first line on::

    python -m mmcv_overrides.run tools/test.py CONFIG CHECKPOINT
    torchrun --nproc-per-node 2 -m mmcv_overrides.run tools/train.py CONFIG --launcher pytorch

``custom_imports`` in a config is too late for programs that import ``mmdet.evaluation`` or ``mmdet.datasets`` before
they read the config, such as mmdet's ``tools/test.py`` and ``tools/analysis_tools/browse_dataset.py``. The program
itself is not changed. Loader workers that are spawned instead of forked get the overrides too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmcv_overrides import UserError, activate

_PROGRAM = "MMCV_OVERRIDES_PROGRAM"  # for spawned processes, which run the main module anew


def _start(program: Path, names: dict) -> None:
    """Run the program with ``names`` as its global names, which are those of the main module."""
    activate()
    names["__file__"] = str(program)
    exec(compile(program.read_bytes(), str(program), "exec"), names)


def main(arguments: list[str]) -> Path:
    """Prepare ``sys.argv`` and ``sys.path`` as Python does for a program.

    Args:
        arguments: the program and its arguments.

    Raises:
        UserError: no program, or one that does not exist.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        raise UserError(f"name the program to run: python -m mmcv_overrides.run PROGRAM [ARGUMENTS]\n\n{__doc__}")
    program = Path(arguments[0]).absolute()
    if not program.is_file():
        raise UserError(f"{arguments[0]}: there is no such program")
    sys.argv = arguments
    sys.path[0] = str(program.parent)
    os.environ[_PROGRAM] = str(program)
    return program


if __name__ == "__main__":
    try:
        found = main(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    _start(found, globals())
elif __name__ == "__mp_main__" and _PROGRAM in os.environ:
    _start(Path(os.environ[_PROGRAM]), globals())
