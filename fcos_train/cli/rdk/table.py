"""``fcos-train rdk table``: the numbers of a compiled model."""

from __future__ import annotations

from fcos_train.deploy.rdk.options import TableOptions


def run(options: TableOptions) -> int:
    """Print what the compiler predicted and what a board measured.

    Exit status 1 if the tensors that a board reports are not those of the export.
    """
    from fcos_train.deploy.rdk.table_of_model import model_table

    lines, faults = model_table(options.model, options.board_logs, options.nodes)
    print("\n".join(lines))
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0
