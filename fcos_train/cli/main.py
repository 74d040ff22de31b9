"""`fcos-train VERB ...`: find the verb, parse its flags, run it.

Only the module of the chosen verb is imported, so that `--help` is quick and `doctor` works on a broken
installation.
A verb module has `add_parser(subparsers) -> ArgumentParser` and `run(args) -> int`.
"""

import argparse
import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from fcos_train import __version__
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable_lines

# verb -> (module, one line of help)
VERBS = {
    "train": ("fcos_train.cli.train", "train a detector"),
    "eval": ("fcos_train.cli.eval", "evaluate a checkpoint: the 12 COCO numbers and AP per class"),
    "demo": ("fcos_train.cli.demo", "draw the detections of a checkpoint on images or a video"),
    "ascend": ("fcos_train.cli.ascend", "offline inference on Ascend, step by step"),
    "export": ("fcos_train.cli.export", "write a checkpoint as ONNX and prove that it answers the same"),
    "summary": ("fcos_train.cli.summary", "print the final numbers of a run"),
    "check-data": ("fcos_train.cli.check_data", "check a data set and say what is wrong with it"),
    "make-shapes": ("fcos_train.cli.make_shapes", "generate a small data set of drawn shapes"),
    "audit": ("fcos_train.cli.audit", "count what a training step asks of an accelerator"),
    "doctor": ("fcos_train.cli.doctor", "check the installation and say how to mend it"),
}
# torchrun's predecessor passes --local_rank; the environment tells the same.
LAUNCHED = ("train", "eval")
FLAG = re.compile(r"--?[A-Za-z]")


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of printing the usage and leaving; takes no abbreviated flags."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def flags(self) -> set[str]:
        """All flags of this parser, `-h` and `--help` included."""
        return set(self._option_string_actions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 2 a fault of the user's (one `error: ...` line on stderr), 130 interrupted; a verb may return
        others, and other exceptions pass through with their traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # An installed torch_npu would come with `import torch`, which then fails where CANN's set_env.sh is not sourced:
    # for --device cpu and doctor too. The choice of the device imports it and says what is wrong.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error{_rank()}: {_one_message(str(error) + _flag(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _flag(error: UserError) -> str:
    """The flag of the setting that the error names: messages of the overrides, which other programs use too, name none."""
    return "" if error.setting is None else f" (flag: --{error.setting.replace('_', '-')})"


def _one_message(text: str) -> str:
    """Printable, and every line but the first indented: what a message quotes cannot pass for another line."""
    first, *others = printable_lines(text).split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ", "\t") else f"  {line}" for line in others)])


def _run(arguments: list[str]) -> int:
    verbs = _available()
    place = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), None)
    verb = None if place is None else arguments[place]
    if verb is not None and verb not in verbs:
        advice = _nearest(verb, verbs) or f"choose from {', '.join(verbs)}"
        raise UserError(f"unknown verb '{verb}'; {advice}")
    root, parser, module = _parsers(verbs, verb)
    if place is None:
        normalise(arguments, root)
    else:
        arguments = normalise(arguments[: place + 1], root) + normalise(arguments[place + 1 :], parser)
    try:
        args, rest = root.parse_known_args(arguments)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}' (see {parser.prog} --help)")
    if verb is None:
        root.print_help(sys.stderr)
        raise UserError("give a verb: " + ", ".join(verbs))
    return module.run(args)


def _available() -> dict[str, tuple[str, str]]:
    return {verb: entry for verb, entry in VERBS.items() if importlib.util.find_spec(entry[0])}


def _parsers(verbs: dict, chosen: str | None):
    """The root parser, and parser and module of the chosen verb (the root's and None if there is none)."""
    root = Parser(prog="fcos-train", description="Train, evaluate and try dense object detectors.")
    root.add_argument("--version", action="version", version=f"fcos-train {__version__}")
    subparsers = root.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    parser, module = root, None
    for verb, (name, text) in verbs.items():
        if verb == chosen:
            module = importlib.import_module(name)
            parser = module.add_parser(subparsers)
        else:
            subparsers.add_parser(verb, help=text)
    if chosen in LAUNCHED and "--local-rank" not in parser.flags():
        parser.add_argument("--local-rank", type=int, help=argparse.SUPPRESS)
    return root, parser, module


def normalise(arguments: Sequence[str], parser: Parser) -> list[str]:
    """Write flags as the parser knows them (`--batch_size` is `--batch-size`); values are not touched.

    Raises:
        UserError: unknown flags, all of them, each with the nearest known one.
    """
    result: list[str] = []
    faults: list[str] = []
    known = parser.flags()
    for index, argument in enumerate(arguments):
        if argument == "--":
            return _checked(result + list(arguments[index:]), faults)
        flag, equals, value = argument.partition("=")
        if not FLAG.match(flag):
            result.append(argument)
            continue
        spellings = [flag, flag[:2] + flag[2:].replace("_", "-"), flag[:2] + flag[2:].replace("-", "_")]
        match = next((spelling for spelling in spellings if spelling in known), None)
        if match is None:
            faults.append(f"unknown flag {flag}; {_nearest(flag, known) or f'see {parser.prog} --help'}")
        result.append((match or flag) + equals + value)
    return _checked(result, faults)


def _checked(result: list[str], faults: list[str]) -> list[str]:
    if faults:
        raise UserError("\n       ".join(faults))
    return result


def _nearest(word: str, known) -> str | None:
    near = difflib.get_close_matches(word.replace("_", "-"), sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def _rank() -> str:
    """Which rank speaks, when it is not the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f" (rank {rank})"
