"""``fcos-train ascend info``: the info file of ``.bin`` files or of images, as ``get_info.py`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options
from mmcv_overrides.errors import UserError


@dataclass(frozen=True)
class InfoOptions(Options):
    """What to list: as words in the order of ``get_info.py``, or each with its flag."""

    words: Annotated[
        tuple[str, ...],
        Option("bin DIR OUT WIDTH HEIGHT, or jpg DIR OUT", metavar="[KIND DIR OUT [W H]]", positional=True),
    ] = ()
    file_type: Annotated[
        str | None, Option("kind of the files", metavar="TYPE", default="the first word", choices=("bin", "jpg"))
    ] = None
    file_path: Annotated[str | None, Option("the folder", metavar="DIR", default="the second word")] = None
    info_name: Annotated[str | None, Option("the info file to write", metavar="OUT", default="the third word")] = None
    width: Annotated[int | None, Option("input width, for bin", metavar="W", default="the fourth word", least=1)] = None
    height: Annotated[int | None, Option("input height, for bin", metavar="H", default="the fifth word", least=1)] = (
        None
    )

    def arguments(self) -> list:
        """Kind, folder, info file, and for ``bin`` width and height.

        Raises:
            UserError: words are missing or too many, or a size is not a number.
        """
        flags = [self.file_type, self.file_path, self.info_name, self.width, self.height]
        given = [value for value in flags if value is not None]
        values = given or [*self.words]
        needed = {"bin": 5, "jpg": 3}.get(str(values[0]) if values else "")
        if needed != len(values) or (given and self.words):
            raise UserError("write: info bin DIR OUT WIDTH HEIGHT, or: info jpg DIR OUT")
        try:
            return [*values[:3], *map(int, values[3:])]
        except ValueError:
            raise UserError(f"width and height must be whole numbers, not {values[3]} and {values[4]}") from None


def run(options: InfoOptions) -> int:
    """List .bin files or images with their sizes."""
    kind, folder, out, *size = options.arguments()
    from fcos_train.deploy.ascend.info import bin_info, image_info

    count = image_info(folder, out) if kind == "jpg" else bin_info(folder, out, *size)
    print(f"{count} rows in {out}")
    return 0
