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
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fcos_train import __version__
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable_lines

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

# verb -> (module, one line of help)
VERBS = {
    "train": ("fcos_train.cli.train", "train a detector"),
    "eval": ("fcos_train.cli.eval", "evaluate a checkpoint: the 12 COCO numbers and AP per class"),
    "demo": ("fcos_train.cli.demo", "draw the detections of a checkpoint on images or a video"),
    "ascend": ("fcos_train.cli.ascend", "offline inference on Ascend, step by step"),
    "export": ("fcos_train.cli.export", "write a checkpoint as ONNX and verify its outputs"),
    "check-data": ("fcos_train.cli.check_data", "check a data set and report its faults"),
    "make-shapes": ("fcos_train.cli.make_shapes", "generate a small data set of drawn shapes"),
    "audit": ("fcos_train.cli.audit", "count what a training step asks of an accelerator"),
    "doctor": ("fcos_train.cli.doctor", "check the installation and say how to repair it"),
}
DESCRIPTION = "Train, evaluate and export dense object detectors."
Table = Mapping[str, tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 2 an error of the user's (one ``error: ...`` line on stderr), 130 interrupted; a verb may return
        others, and other exceptions pass through with their traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # An installed torch_npu would come with `import torch`, which then fails where CANN's set_env.sh is not sourced:
    # for --device cpu and doctor too. The choice of the device imports it and says what is wrong.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    try:
        return _run(words)
    except UserError as error:
        print(f"error{_rank()}: {_one_message(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _one_message(text: str) -> str:
    """Printable, and every line but the first indented: what a message quotes cannot pass for another line."""
    first, *others = printable_lines(text).split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ", "\t") else f"  {line}" for line in others)])


def _run(words: list[str]) -> int:
    try:
        import cyclopts

        from fcos_train.cli.help_text import TwoColumns
    except ImportError as error:
        raise UserError(f"{error}; repair: pip install cyclopts") from None
    root = cyclopts.App(
        name="fcos-train",
        help=DESCRIPTION,
        version=__version__,
        version_flags="--version",
        help_format="plaintext",
        help_formatter=TwoColumns(),
    )
    return _follow(root, root, VERBS, words, ())


def _follow(root: App, app: App, table: Table, words: list[str], chain: tuple[str, ...]) -> int:
    """Fill ``app`` with the verbs of a table, and run the one that the first word names.

    Args:
        chain: the verbs that led here.
    """
    verbs = {verb: entry for verb, entry in table.items() if importlib.util.find_spec(entry[0])}
    place = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    verb = words[place] if place < len(words) else None
    for rank, (other, (name, text)) in enumerate(verbs.items()):
        if other != verb:  # listed by --help; the module is not imported
            app.command(f"{name}:run", name=other, help=text, sort_key=rank)
    _require_known(words[:place], verbs, chain)
    if place:  # --help or --version
        return _call(root, [*chain, words[0]], chain)
    if verb is None:
        raise UserError(f"give a {'step' if chain else 'verb'}: {', '.join(verbs)}")
    if verb not in verbs:
        from fcos_train.cli.generate import nearest

        advice = nearest(verb, verbs) or f"choose from {', '.join(verbs)}"
        raise UserError(f"unknown {'step' if chain else 'verb'} '{verb}'; {advice}")
    return _enter(root, app, verbs[verb], words[1:], (*chain, verb))


def _enter(root: App, app: App, entry: tuple[str, str], words: list[str], chain: tuple[str, ...]) -> int:
    """Run the last verb of the chain, or follow the words on where it is a group of steps."""
    from cyclopts import App

    from fcos_train.cli.generate import command

    module = importlib.import_module(entry[0])
    if hasattr(module, "STEPS"):
        group = App(name=chain[-1], help=module.DESCRIPTION, version_flags=())
        app.command(group)
        return _follow(root, group, module.STEPS, words, chain)
    found = command(module.run, " ".join(("fcos-train", *chain)))
    app.command(found.app)
    return _call(root, [*chain, *found.arranged(words)], chain)


def _require_known(flags: Sequence[str], verbs: Mapping[str, object], chain: tuple[str, ...]) -> None:
    """Before a verb there are no flags but these."""
    from fcos_train.cli.generate import HELP_FLAGS, nearest

    known = [*HELP_FLAGS, *(() if chain else ("--version",))]
    faults = [f"unknown flag {flag}; {nearest(flag, known) or 'flags come after the verb'}" for flag in flags]
    faults = [fault for flag, fault in zip(flags, faults, strict=True) if flag not in known]
    if faults:
        raise UserError("\n       ".join(faults))


def _call(root: App, words: list[str], chain: tuple[str, ...]) -> int:
    """Let cyclopts parse, then run what it found: a verb, the help or the version."""
    from cyclopts import CycloptsError

    try:
        found, bound, _ = root.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UserError(f"{_reason(error)} (see {' '.join(('fcos-train', *chain))} --help)") from None
    return found(*bound.args, **bound.kwargs) or 0


def _reason(error: CycloptsError) -> str:
    """What is wrong, in the words of the flags."""
    from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if not error.keyword and not error.argument.tokens:
            return f"{error.argument.name} is missing"
        count = max(error.argument.token_count()[0], 1)
        return f"{error.keyword or error.argument.name} needs {'a value' if count == 1 else f'{count} values'}"
    return str(error)


def _rank() -> str:
    """Which rank speaks, when it is not the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f" (rank {rank})"
