"""``fcos-train rdk-demo``: detect and draw the objects of one image as on an RDK board."""

from __future__ import annotations

from fcos_train.deploy.rdk.options import RdkDemoOptions


def run(options: RdkDemoOptions) -> int:
    """Detect the objects of one image with a model for an RDK board, and draw them.

    On a board the .bin runs; on a PC the compiler's quantised ONNX file, or the float one with emulated int32 outputs.
    """
    from fcos_train.deploy.rdk.demo import demo

    demo(options)
    return 0
