"""``fcos-train predict``: detect objects in images, videos, cameras and streams, and write them in several forms."""

from __future__ import annotations

from fcos_train.infer.options import PredictOptions


def run(options: PredictOptions) -> int:
    """Detect objects with a checkpoint or an exported model, and write what is found into --out.

    Addresses are opened only where they are given here. A camera or a stream ends with Ctrl-C, or after --max-frames;
    what was found until then is written. Images that cannot be read are named at the end, with exit status 2.
    """
    from fcos_train.deploy.artefact import load_model
    from fcos_train.infer.predict import predict

    predict(options, load_model)
    return 0
