"""Whether this installation can export to some targets: ``python -m fcos_train.cli.require [--simplify] TARGET...``.

For shell scripts, which ask before the first of many steps. Exit status 2 and one line if a package is missing.
"""

from __future__ import annotations

import sys

from fcos_train.deploy.targets import TARGETS, target_of
from mmcv_overrides.errors import UserError


def require(names: list[str]) -> None:
    """Refuse to begin without the packages of these targets.

    Args:
        names: of targets; ``--simplify`` stands for ``fcos-train simplify``.

    Raises:
        UserError: a package is missing, or there is no such target.
    """
    for name in names:
        if name == "--simplify":
            from fcos_train.deploy.onnx.simplify import require_onnxslim

            require_onnxslim()
        elif name not in TARGETS:
            raise UserError(f"there is no target {name}; there are {', '.join(TARGETS)}")
        elif name != "onnx":
            target_of(name).require()


def main(arguments: list[str]) -> int:
    """Check the targets that are given."""
    try:
        require(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
