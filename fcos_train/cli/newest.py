"""The checkpoint that is meant when none is named: the newest ``work_dirs/*/latest.pth``.

``python -m fcos_train.cli.newest [FOLDER]`` prints it, for shell scripts; exit status 1 if there is none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmcv_overrides.errors import UserError

WORK_DIRS = Path("work_dirs")


def newest_checkpoint(folder: Path = WORK_DIRS) -> Path | None:
    """The newest of the trainings in ``folder``, by the time of the checkpoint that ``latest.pth`` links to."""
    found = [path for path in folder.glob("*/latest.pth") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def require_newest() -> str:
    """The newest checkpoint, with a line that names it.

    Raises:
        UserError: there is none.
    """
    found = newest_checkpoint()
    if found is None:
        raise UserError(f"give a checkpoint; there is no {WORK_DIRS}/*/latest.pth in {Path.cwd()}")
    print(f"no checkpoint given: {found}, the newest")
    return str(found)


def main(arguments: list[str]) -> int:
    """Print the newest checkpoint of the folder that is given."""
    found = newest_checkpoint(Path(arguments[0]) if arguments else WORK_DIRS)
    if found is not None:
        print(found)
    return 0 if found is not None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
