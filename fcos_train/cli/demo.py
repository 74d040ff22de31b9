"""``fcos-train demo``: draw the detections of a checkpoint on an image, a folder, a video or a camera."""

from __future__ import annotations

from fcos_train.infer.options import DemoOptions


def run(options: DemoOptions) -> int:
    """Detect objects in an image, a folder of images, a video or a camera, and draw them with class name and score.

    Writes <name>_pred.jpg (or a video) into --show-dir.
    """
    from fcos_train.infer.demo import demo

    demo(options)
    return 0
