"""One XML file of PASCAL VOC annotations, in any encoding that it declares or shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from mmcv_overrides.regular_files import read_regular
from mmcv_overrides.text_encoding import decode_text

MAX_XML = 16 << 20  # bytes of one image's annotations
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# What reading a file may raise: absent or special files, broken XML, an unknown encoding.
FAULTS = (ET.ParseError, OSError, ValueError, LookupError, RecursionError)
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_GUESSED = ("gbk", "shift_jis")


@dataclass
class VocObject:
    """An object of an XML file."""

    name: str  # empty if it has none
    corners: tuple[float, float, float, float] | None  # as written; None if they are not numbers
    difficult: bool


@dataclass
class VocImage:
    """An XML file."""

    file_name: str
    width: int | None  # None or 0 if missing: then read from the image later
    height: int | None
    pascal: bool  # the file says that it comes from a PASCAL challenge
    objects: list[VocObject] = field(default_factory=list)
    guessed: str | None = None  # the encoding, if the file is neither UTF-8 nor in the encoding that it declares


def read_xml(path: Path) -> VocImage:
    """Read the annotations of one image.

    Raises:
        one of FAULTS: the file is absent, not regular, too large, no XML, of an uncertain encoding, or not VOC.
    """
    data = read_regular(path, MAX_XML)
    declared = _DECLARED.match(data)
    text, encoding = decode_text(data, declared[1].decode("ascii") if declared else None)
    root = ET.fromstring(_DECLARATION.sub("", text, count=1))
    if root.tag.startswith("{"):  # a namespace
        for element in root.iter():
            element.tag = str(element.tag).rpartition("}")[2]
    if root.tag != "annotation" and root.find("object") is None:
        raise ValueError(f"it is no VOC annotation: its root is <{str(root.tag)[:40]}>, not <annotation>")
    image = VocImage(
        file_name=(root.findtext("filename") or "").strip(),
        width=_whole(root.findtext("size/width")),
        height=_whole(root.findtext("size/height")),
        pascal=(root.findtext("source/database") or "").strip().startswith("The VOC"),
        guessed=encoding if encoding in _GUESSED else None,
    )
    for element in root.findall("object"):
        image.objects.append(
            VocObject(
                (element.findtext("name") or "").strip(),
                _corners(element.find("bndbox")),
                (element.findtext("difficult") or "0").strip().lower() in ("1", "true"),
            )
        )
    return image


def _whole(text: str | None) -> int | None:
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return None


def _corners(element: ET.Element | None) -> tuple[float, float, float, float] | None:
    if element is None:
        return None
    try:
        xmin, ymin, xmax, ymax = (float(element.findtext(key) or "") for key in CORNERS)
    except ValueError:
        return None
    return xmin, ymin, xmax, ymax
