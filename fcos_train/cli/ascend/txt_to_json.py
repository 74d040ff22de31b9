"""``fcos-train ascend txt-to-json``: text files of detections to a COCO result file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing_file


@dataclass(frozen=True)
class TxtToJsonOptions(Options):
    """Which text files to collect."""

    npu_txt_path: Annotated[str, Option("folder of the text files", metavar="DIR")] = "detection-results"
    json_output_file: Annotated[str, Option("the file to write; .json is appended", metavar="NAME")] = (
        "coco_detection_result"
    )
    ground_truth: Annotated[
        str | None,
        Option("annotations that give the ids", metavar="JSON", default="the ids of COCO", check=existing_file),
    ] = None


def run(options: TxtToJsonOptions) -> int:
    """Text files to a COCO result file."""
    from fcos_train.deploy.ascend.txt_to_json import txt_to_json
    from fcos_train.deploy.parts.classes import coco_truth, read_truth

    truth = read_truth(options.ground_truth) if options.ground_truth else coco_truth()
    path, count = txt_to_json(options.npu_txt_path, options.json_output_file, truth)
    print(f"{count} results in {path}")
    return 0
