"""``fcos-train ascend coco-eval``: the twelve COCO numbers of a result file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options


@dataclass(frozen=True)
class CocoEvalOptions(Options):
    """Which results to evaluate, and against what."""

    ground_truth: Annotated[str, Option("the annotations", metavar="JSON")] = "instances_val2017.json"
    detection_result: Annotated[str, Option("the COCO result file", metavar="JSON")] = "coco_detection_result.json"
    output: Annotated[str, Option("file for the numbers, as key: value lines", metavar="FILE")] = (
        "./coco_detection_result.txt"
    )


def run(options: CocoEvalOptions) -> int:
    """The twelve COCO numbers of a result file."""
    from fcos_train.deploy.parts.coco_numbers import coco_eval

    numbers = coco_eval(options.ground_truth, options.detection_result, options.output)
    print("\n".join(numbers.lines()))
    print(numbers.summary())
    return 0
