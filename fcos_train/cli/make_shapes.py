"""``fcos-train make-shapes``: a small generated data set to try everything with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options


@dataclass(frozen=True)
class MakeShapesOptions(Options):
    """How many images of which size to draw."""

    path: Annotated[Path, Option("folder to write to", positional=True)]
    train: Annotated[int, Option("training images", metavar="N", least=1)] = 200
    val: Annotated[int, Option("validation images", metavar="N", least=1)] = 50
    size: Annotated[tuple[int, int], Option("size of the images in px", metavar="W H", least=32)] = (320, 240)
    seed: Annotated[int, Option("seed of the drawings", metavar="N", least=0)] = 0
    sizes: Annotated[
        str,
        Option(
            "standard: shapes of the sizes that FCOS assigns to its finest level; all-levels: in every image shapes "
            "for each of its levels P3 to P6",
            choices=("standard", "all-levels"),
        ),
    ] = "standard"


def run(options: MakeShapesOptions) -> int:
    """Draw circles, squares and triangles on textured backgrounds as a COCO data set.

    The same arguments always give the same data set.
    """
    from fcos_train.data.shapes import CLASSES, make_shapes

    root = make_shapes(
        options.path,
        train=options.train,
        val=options.val,
        size=options.size,
        seed=options.seed,
        sizes=options.sizes,
    )
    print(f"{options.train} training and {options.val} validation images of {', '.join(CLASSES)} in {root}")
    return 0
