"""``fcos-train compare``: a checkpoint and its exports in one table."""

from __future__ import annotations

from fcos_train.deploy.options import CompareOptions


def run(options: CompareOptions) -> int:
    """Compare exported models with their checkpoint: size, largest difference of the maps, mAP and time per image.

    Times are of the network alone on this CPU, taken in turns. Exit status 1 if the mAP of a model differs from the
    checkpoint's by more than the tolerance.
    """
    from fcos_train.deploy.compare import compare, table

    rows = compare(options)
    print("\n".join(table(rows)))
    return 0 if all(row.agrees for row in rows) else 1
