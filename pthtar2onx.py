#!/usr/bin/env python3
"""A checkpoint in, a verified ONNX file out: ``python pthtar2onx.py [CONFIG] [CHECKPOINT] [--output-file FILE ...]``.

The same as ``fcos-train export`` with the defaults of the script that users of mmdet 2.x know: tmp.onnx, opset 11 (or
what the model needs), outputs ``boxes`` and ``labels``. All options: ``python pthtar2onx.py --help``.
"""

import sys

from fcos_train.cli.main import main

DEFAULTS = {
    "--output-file": ["tmp.onnx"],
    "--usual-opset": ["11"],
    "--output-names": ["boxes", "labels"],
}


def arguments(given: list[str], defaults: dict[str, list[str]] = DEFAULTS) -> list[str]:
    """The given arguments, and the defaults of what is not among them. Positional arguments come first."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in given}
    return given + [part for flag, values in defaults.items() if flag not in flags for part in (flag, *values)]


if __name__ == "__main__":
    sys.exit(main(["export", *arguments(sys.argv[1:])]))
