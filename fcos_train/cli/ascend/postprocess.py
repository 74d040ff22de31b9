"""``fcos-train ascend postprocess``: results of the runner to text files, and to the twelve COCO numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing, existing_file
from fcos_train.deploy.ascend.options import MODELS


@dataclass(frozen=True)
class PostprocessOptions(Options):
    """Which results to decode, and by which rule."""

    model: Annotated[str, Option("whose rule to follow", metavar="MODEL", choices=MODELS)] = "fsaf"
    test_annotation: Annotated[
        str | None,
        Option(
            "info file of the images",
            metavar="INFO",
            default="./origin_pictures.info, for cascade ./coco2017_jpg.info",
        ),
    ] = None
    bin_data_path: Annotated[str, Option("results of the runner", metavar="DIR")] = "./result/dumpOutput_device0/"
    det_results_path: Annotated[str, Option("folder for the text files", metavar="DIR")] = "./detection-results/"
    net_out_num: Annotated[int | None, Option("accepted for old scripts; the outputs are counted", hidden=True)] = None
    val2017_path: Annotated[
        str | None, Option("accepted for old scripts; the info file has the paths of the images", hidden=True)
    ] = None
    width: Annotated[
        int | None,
        Option("as in preprocess", metavar="W", default="the rule's", flags=("--net-input-width",), least=1),
    ] = None
    height: Annotated[
        int | None,
        Option("as in preprocess", metavar="H", default="the rule's", flags=("--net-input-height",), least=1),
    ] = None
    sidecar: Annotated[
        str | None,
        Option(
            "take size, resize rule and classes from the JSON beside an exported model",
            metavar="JSON",
            default="the rule of --model",
            check=existing_file,
        ),
    ] = None
    prob_thres: Annotated[
        float | None,
        Option("smallest score that is written", metavar="S", default="all above 0, for cascade 0.05"),
    ] = None
    suffix_base: Annotated[str, Option("number of the first output", metavar="BASE", choices=("auto", "0", "1"))] = (
        "auto"
    )
    draw: Annotated[bool, Option("also draw the boxes on the images", flags=("--ifShowDetObj",))] = False
    annotations_path: Annotated[
        str | None,
        Option(
            "COCO annotations (or their folder): print the twelve COCO numbers too",
            metavar="PATH",
            default="not evaluated",
            check=existing,
        ),
    ] = None
    classes: Annotated[
        tuple[str, ...] | None,
        Option("class names in the order of the labels", metavar="NAME", default="the sidecar's, else the 80 of COCO"),
    ] = None


def run(options: PostprocessOptions) -> int:
    """Results of the runner to one text file per image."""
    from fcos_train.deploy.ascend.postprocess import postprocess
    from fcos_train.deploy.ascend.rules import RULES
    from fcos_train.deploy.ascend.txt_to_json import collect
    from fcos_train.deploy.parts.classes import COCO_NAMES, find_annotations, read_truth
    from fcos_train.deploy.parts.coco_numbers import evaluate
    from fcos_train.deploy.parts.description import read_classes, read_rule

    if options.val2017_path:
        print("note: --val2017-path has no effect: the info file (--test-annotation) has the paths of the images")
    rule = RULES[options.model]
    classes: Sequence[str] = COCO_NAMES
    if options.sidecar:
        rule, classes = read_rule(options.sidecar), read_classes(options.sidecar)
    rule = rule.at(options.height, options.width)
    if options.prob_thres is not None:
        rule = replace(rule, prob_thres=options.prob_thres)
    truth = read_truth(find_annotations(options.annotations_path)) if options.annotations_path else None
    usual = "./coco2017_jpg.info" if options.model == "cascade" else "./origin_pictures.info"
    base = None if options.suffix_base == "auto" else int(options.suffix_base)
    folder = options.det_results_path
    count = postprocess(
        options.bin_data_path,
        options.test_annotation or usual,
        folder,
        rule,
        options.classes or classes,
        base,
        options.draw,
    )
    print(f"{count} objects in {folder}")
    if truth:
        numbers = evaluate(truth.path, collect(folder, truth, 0.0), folder)
        print("\n".join(numbers.lines()))
        print(numbers.summary())
    return 0
