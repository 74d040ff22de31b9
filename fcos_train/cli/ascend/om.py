"""``fcos-train ascend om``: the command that turns an ONNX file into an ``.om``."""

from __future__ import annotations

import shlex

from fcos_train.deploy.ascend.options import OmOptions
from mmcv_overrides.errors import UserError


def run(options: OmOptions) -> int:
    """Print the atc or aoe command, and run it where CANN is installed.

    Where it is not, nothing is converted: exit status 2, unless --dry-run says that the command is enough.
    """
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
        raise UserError(
            f"nothing was converted: {words[0]} is not on PATH (it comes with CANN). The command is in {script}; "
            "run it where CANN is installed (--dry-run only writes it)"
        )
    return 0
