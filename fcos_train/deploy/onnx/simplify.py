"""Fewer nodes, the same values: an exported model simplified by onnxslim, and compared with what it was made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.description import beside, read_description, rule_of
from fcos_train.deploy.parts.session import OnnxSession
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole

IMAGES = 2
# How far an output may be from the original's.
RELATIVE, ABSOLUTE = 1e-3, 2e-4


def simplify(source: Path, output: Path, say: Callable[[str], None] = print) -> Path:
    """Simplify an exported ONNX file; its description is copied beside the result.

    Args:
        source: a file of ``fcos-train export``. output: the file to write. say: prints a line.

    Returns:
        ``output``.

    Raises:
        UserError: a fault in the file, onnxslim is absent, or the outputs differ: then nothing is written.
    """
    require_onnxslim()
    description = read_description(beside(source))
    if description.get("custom_operators"):
        raise UserError(f"{source} has operators of CANN, which onnxslim does not know; atc simplifies it itself")
    session = OnnxSession(source, None, *description["input"]["example_shape"])
    before, after = _slimmed(source)
    content = after.SerializeToString(deterministic=True)
    differences = _differences(session, content, description)
    for name, (largest, fault) in differences.items():
        say(f"  {name:<{max(map(len, differences))}}  largest difference {largest:.3e}  {'FAILED' if fault else 'ok'}")
    wrong = [name for name, (_, fault) in differences.items() if fault]
    if wrong:
        raise UserError(f"{source}: onnxslim changes the values of {', '.join(wrong)}; {output} is not written")
    write_whole(output, content)
    write_whole(output.with_suffix(".json"), beside(source).read_bytes())
    say(f"{output}: {before} nodes became {len(after.graph.node)}, the values are the same on {IMAGES} images")
    return output


def require_onnxslim() -> None:
    """Refuse to begin without onnxslim.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("onnxslim") is None:
        raise UserError("simplify needs onnxslim: pip install 'fcos-train[simplify]'")


def _slimmed(source: Path) -> tuple[int, Any]:
    """The number of nodes of a file, and the simplified model."""
    import onnx
    import onnxslim

    model = onnx.load(str(source))
    number = len(model.graph.node)
    after = onnxslim.slim(model)
    onnx.checker.check_model(after, full_check=True)
    return number, after


def _differences(session: OnnxSession, simplified: bytes, description: dict[str, Any]) -> dict[str, tuple[float, bool]]:
    """Of each output: the largest difference over some images, and whether it is too large."""
    from fcos_train.data.shapes import draw_image
    from fcos_train.deploy.parts.session import cpu_session

    rule, rng, other = rule_of(description), np.random.default_rng(0), cpu_session(simplified)
    found = {name: (0.0, False) for name in session.outputs}
    for _ in range(IMAGES):
        images = np.stack([rule.prepare(draw_image(rng, (320, 240))[0]) for _ in range(session.batch)])
        outputs = other.run(session.outputs, {session.input_name: images})
        for name, old, new in zip(session.outputs, session.run(images), outputs, strict=True):
            same_shape = old.shape == new.shape
            largest = float(np.abs(old.astype(np.float64) - new).max(initial=0)) if same_shape else float("inf")
            wrong = not same_shape or not np.allclose(new, old, RELATIVE, ABSOLUTE)
            found[name] = max(largest, found[name][0]), wrong or found[name][1]
    return found
