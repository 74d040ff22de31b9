"""``fcos-train ascend preprocess``: images to ``.bin`` files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing_file
from fcos_train.deploy.ascend.options import MODELS


@dataclass(frozen=True)
class PreprocessOptions(Options):
    """Which images to prepare, and by which rule."""

    model: Annotated[str, Option("whose rule to follow", metavar="MODEL", choices=MODELS)] = "fsaf"
    images: Annotated[
        str | None,
        Option(
            "folder of the images",
            metavar="DIR",
            default="./coco2017/, for cascade ./coco2014/",
            flags=("--image-src-path", "--image-folder-path"),
        ),
    ] = None
    bins: Annotated[
        str | None,
        Option(
            "folder for the .bin files",
            metavar="DIR",
            default="<images>_bin/",
            flags=("--bin-file-path", "--bin-folder-path"),
        ),
    ] = None
    height: Annotated[
        int | None,
        Option("input height", metavar="H", default="800, for cascade 1216", flags=("--model-input-height",), least=1),
    ] = None
    width: Annotated[
        int | None,
        Option("input width", metavar="W", default="1216, for fcos 1333", flags=("--model-input-width",), least=1),
    ] = None
    sidecar: Annotated[
        str | None,
        Option(
            "take size and normalisation from the JSON beside an exported model",
            metavar="JSON",
            default="the rule of --model",
            check=existing_file,
        ),
    ] = None
    aipp: Annotated[
        bool, Option("write pixels (uint8, H x W x 3) for a model whose .om normalises them itself (om --aipp)")
    ] = False
    pad_size: Annotated[int | None, Option("accepted for old scripts; it never had an effect", hidden=True)] = None
    workers: Annotated[int | None, Option("threads", metavar="N", default="one per processor", least=1)] = None


def run(options: PreprocessOptions) -> int:
    """Images to .bin files."""
    from fcos_train.deploy.ascend.preprocess import preprocess
    from fcos_train.deploy.ascend.rules import RULES
    from fcos_train.deploy.parts.description import read_rule

    rule = read_rule(options.sidecar) if options.sidecar else RULES[options.model]
    rule = rule.at(options.height, options.width)
    images = options.images or ("./coco2014/" if options.model == "cascade" else "./coco2017/")
    bins = options.bins or f"{images.rstrip('/')}_bin/"
    count = preprocess(images, bins, rule, options.workers, options.aipp)
    form = f"{rule.height} x {rule.width} x 3 uint8" if options.aipp else f"3 x {rule.height} x {rule.width} float32"
    print(f"{count} files of {rule.bin_bytes(options.aipp)} bytes ({form}) in {bins}")
    return 0
