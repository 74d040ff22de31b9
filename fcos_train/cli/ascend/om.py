"""``fcos-train ascend om``: the command that turns an ONNX file into an ``.om``."""

from __future__ import annotations

import shlex

from fcos_train.deploy.ascend.options import OmOptions


def run(options: OmOptions) -> int:
    """Print the atc or aoe command, and run it where CANN is installed."""
    from fcos_train.deploy.ascend.om import convert
    from fcos_train.deploy.ascend.rules import RULES
    from fcos_train.deploy.parts.description import beside, read_rule

    rule = RULES[options.rule] if options.rule else None
    if options.aipp == "" and rule is None:
        rule = read_rule(beside(options.model))
    words, script, ran = convert(options, rule, options.dry_run)
    print(shlex.join(words))
    if ran:
        print(f"{options.target}.om is written")
    elif options.dry_run:
        print(f"the command is in {script}")
    else:
        print(f"{words[0]} is not on PATH (it comes with CANN), so nothing was converted; the command is in {script}")
    return 0
