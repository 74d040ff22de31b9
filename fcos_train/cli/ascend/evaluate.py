"""``fcos-train ascend evaluate``: the mAP of a checkpoint and of its export, by all steps in one."""

from __future__ import annotations

from fcos_train.deploy.ascend.options import EvaluateOptions


def run(options: EvaluateOptions) -> int:
    """Compare the mAP of a checkpoint with that of its export.

    Exit status 1 if they differ by more than the tolerance.
    """
    from fcos_train.deploy.artefact import open_artefact
    from fcos_train.deploy.ascend.evaluate import evaluate

    found = evaluate(options, open_model=open_artefact)
    print("\n".join(found.lines()))
    return 0 if found.agrees else 1
