"""``fcos-train VERB ...``: find the verb, check its flags, run it.

Only the module of the chosen verb is imported, so that ``--help`` is quick and ``doctor`` works on a broken
installation. A verb's module has ``run(options: SomeOptions) -> int``; a group of steps (``ascend``) has ``STEPS``, a
table like :data:`VERBS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile

from fcos_train import __version__
from fcos_train.cli.generate import command
from fcos_train.cli.help_text import group_help
from fcos_train.cli.words import HELP_FLAGS, asks_for_help, nearest
from mmcv_overrides.errors import DISK_FAULTS, Stalled, UserError, system_error, tell_torchrun
from mmcv_overrides.printable import printable_lines
from mmcv_overrides.signals import Stopped, note

# verb -> (module, one line of help)
VERBS = {
    "train": ("fcos_train.cli.train", "train a detector"),
    "eval": ("fcos_train.cli.eval", "evaluate a checkpoint: the 12 COCO numbers and AP per class"),
    "demo": ("fcos_train.cli.demo", "draw the detections of a checkpoint on images or a video"),
    "serve": ("fcos_train.cli.serve", "serve a model as a web page and over HTTP"),
    "predict": (
        "fcos_train.cli.predict",
        "detect objects in images and videos; write COCO, YOLO, VOC, CSV, crops",
    ),
    "print-config": ("fcos_train.cli.print_config", "print the config that a training with these flags would use"),
    "ncnn-demo": ("fcos_train.cli.ncnn_demo", "detect objects with an exported ncnn network; the classic lines"),
    "ascend": ("fcos_train.cli.ascend", "offline inference on Ascend, step by step"),
    "export": ("fcos_train.cli.export", "write a checkpoint as ONNX or for another runtime, and verify its outputs"),
    "compare": ("fcos_train.cli.compare", "compare exported models with their checkpoint: mAP, speed, differences"),
    "simplify": ("fcos_train.cli.simplify", "write an exported ONNX file with fewer nodes and the same values"),
    "rdk": ("fcos_train.cli.rdk", "what follows an export to an RDK board"),
    "rdk-demo": ("fcos_train.cli.rdk_demo", "draw the detections of a model for an RDK board on an image"),
    "quantize": ("fcos_train.cli.quantize", "write a checkpoint in int8, calibrated with images"),
    "summary": ("fcos_train.cli.summary", "print the final numbers of a run"),
    "report": ("fcos_train.cli.report", "write the report page of a run again, or compare runs"),
    "check-data": ("fcos_train.cli.check_data", "check a data set and report its faults"),
    "convert": ("fcos_train.cli.convert", "write a data set in COCO, VOC or YOLO layout"),
    "weights": ("fcos_train.cli.weights", "list or download weights to start from by name"),
    "make-shapes": ("fcos_train.cli.make_shapes", "generate a small data set of drawn shapes"),
    "audit": ("fcos_train.cli.audit", "count what a training step asks of an accelerator"),
    "doctor": ("fcos_train.cli.doctor", "check the installation and say how to repair it"),
}
DESCRIPTION = "Train, evaluate and export dense object detectors."
Table = Mapping[str, tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 ranks that cannot go on, 2 an error of the user's (one ``error: ...`` line on stderr each), 130
        interrupted, 128 + n for a training that signal n has stopped (0 for SIGUSR1), 141 if nobody reads the output
        any more; a verb may return others, and other exceptions pass through with their traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # An installed torch_npu would come with `import torch`, which then fails where CANN's set_env.sh is not sourced:
    # for --device cpu and doctor too. The choice of the device imports it and says what is wrong.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except UserError as error:
        tell_torchrun(message_of(error))
        return _refuse(message_of(error))
    except Stalled as error:
        tell_torchrun(str(error))
        print(f"error{_rank()}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        return status_of(stopped)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
        return 141
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        return _refuse(_one_message(str(system_error(error))))


def _refuse(message: str) -> int:
    """Print an error; on a full disk, where stderr may be a file too, there may be nothing to print to."""
    with suppress(OSError):
        print(f"error{_rank()}: {message}", file=sys.stderr)
    return 2


def status_of(stopped: Stopped) -> int:
    """The exit status after a signal, noted for an agent. Where the log has no line about it one is printed."""
    note(stopped)
    if not stopped.together:
        print(f"stopped by {stopped.signal.name}", file=sys.stderr)
    return int(str(stopped.code))


def message_of(error: UserError) -> str:
    """The text of a user error as a command prints it after ``error: ``."""
    return _one_message(str(error) + _flag(error))


def _flag(error: UserError) -> str:
    """The flag of the setting that an error names. The overrides do not know our flags: other programs use them too."""
    return "" if error.setting is None else f" (flag: --{error.setting.replace('_', '-')})"


def _one_message(text: str) -> str:
    """Printable, and every line but the first indented: what a message quotes cannot pass for another line."""
    first, *others = printable_lines(text).split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ", "\t") else f"  {line}" for line in others)])


def _run(words: list[str]) -> int:
    return _follow(VERBS, words, (), DESCRIPTION)


def _follow(table: Table, words: list[str], chain: tuple[str, ...], description: str) -> int:
    """Run the verb of a table that the first word names.

    Args:
        chain: the words that led here.
    """
    verbs = {verb: entry for verb, entry in table.items() if importlib.util.find_spec(entry[0])}
    kind = "step" if chain else "verb"
    name = " ".join(("fcos-train", *chain))
    flags = {} if chain else {"--version": "show the version and exit"}
    if words and words[0].startswith("-"):
        _require_known(words, (*HELP_FLAGS, *flags))
        version = f"fcos-train {__version__}"
        print(version if words[0] in flags else group_help(name, description, dict(_lines(verbs)), flags))
        return 0
    if not words:
        raise UserError(f"give a {kind}: {', '.join(verbs)} (see {name} --help)")
    verb, *others = words
    if verb not in verbs:
        raise UserError(f"unknown {kind} '{verb}'; {nearest(verb, verbs) or 'choose from ' + ', '.join(verbs)}")
    module = importlib.import_module(verbs[verb][0])
    if hasattr(module, "STEPS"):
        return _follow(module.STEPS, others, (*chain, verb), module.DESCRIPTION)
    if hasattr(module, "require_own"):
        module.require_own(others)
    found = command(module.run, f"{name} {verb}")
    if asks_for_help(others):
        print(found.help())
        return 0
    return found.run(found.parse(others))


def _lines(verbs: Table) -> Iterator[tuple[str, str]]:
    """Each verb with its line of help."""
    return ((verb, text) for verb, (_, text) in verbs.items())


def _require_known(words: Sequence[str], known: Sequence[str]) -> None:
    """Before a verb there are no flags but these."""
    flags = list(takewhile(lambda word: word.startswith("-"), words))
    unknown = [flag for flag in flags if flag not in known]
    if unknown:
        advice = [f"unknown flag {flag}; {nearest(flag, known) or 'flags come after the verb'}" for flag in unknown]
        raise UserError("\n       ".join(advice))


def _rank() -> str:
    """Which rank speaks, when it is not the first."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    return "" if rank == "0" else f" (rank {rank})"
