"""``fcos-train ascend benchmark``: a table of batch sizes and models."""

from __future__ import annotations

from fcos_train.deploy.ascend.options import BenchmarkOptions


def run(options: BenchmarkOptions) -> int:
    """Measure models at several batch sizes, and print a table with the best batch of each.

    An .onnx runs in onnxruntime on this machine, an .om on a card. The .onnx must be exported with --dynamic batch; for
    models of one batch each, such as fsaf_bs1.om and fsaf_bs4.om, write {} for the batch: fsaf_bs{}.om.
    """
    from fcos_train.deploy.ascend.benchmark import measure, table

    print("\n".join(table(options, measure(options))))
    return 0
