"""Width and height of an image from the first bytes of its file, without decoding it.

Only the fields from which OpenCV derives how much memory to allocate are read. Formats without a reader here are not
decoded at all, because their memory is not known in advance (OpenEXR, Radiance HDR, Sun raster). How the decoded image
is turned, and its depth, are read by :mod:`fcos_train.data.image_tags`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF, PNM, JPEG 2000, AVIF"
Size = tuple[int, int]  # width, height in px

_BEGINNING = 1 << 16  # bytes; the text headers of PNM end before
_BLANK = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P[1-6Ff]" + _BLANK + rb"(\d{1,10})" + _BLANK + rb"(\d{1,10})")
_PAM = re.compile(rb"^(WIDTH|HEIGHT)\s+(\d{1,10})", re.M)
# Markers of a frame (ITU-T T.81, table B.1): SOF0 to SOF15 without DHT, JPG and DAC.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_SIDES = {256: 0, 257: 1, 322: 0, 323: 1}  # width, height; those of a tile, which is decoded as a whole
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def header_size(data: bytes) -> Size | None:
    """(width, height) of an image file as it is stored; None for an unknown format or a broken header.

    Args:
        data: the whole file.
    """
    for signature, read in _READERS:
        if signature.match(data):
            try:
                return read(data)
            except struct.error:  # the file ends within the header
                return None
    return None


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while (place := data.find(b"\xff", place)) >= 0:
        (marker,) = struct.unpack_from("B", data, place + 1)
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker in (0xD9, 0xDA):  # end of image, or pixels before any frame
            return None
        if marker == 0xFF:  # padding
            place += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _png(data: bytes) -> Size | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height: rows from the top


def _gif(data: bytes) -> Size:
    return struct.unpack_from("<HH", data, 6)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":  # 24 bits each
        width, height = struct.unpack_from("<I", data, 24)[0], struct.unpack_from("<I", data, 26)[0] >> 8
        return 1 + (width & 0xFFFFFF), 1 + height
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(data: bytes) -> Size | None:
    sides = [0, 0]
    for side, value in _tiff_sides(data, "<" if data[:1] == b"I" else ">"):
        sides[side] = max(sides[side], value)
    return (sides[0], sides[1]) if all(sides) else None


def _tiff_sides(data: bytes, order: str) -> Iterator[tuple[int, int]]:
    """(0 for widths or 1 for heights, px) of the first image; in BigTIFF all fields have 64 bits instead of 32."""
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start) if start < len(data) else (0,)
    first, step, value_at = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    for place in range(first, min(first + step * count, len(data)), step):
        tag, kind = struct.unpack_from(order + "HH", data, place)
        if tag in _TIFF_SIDES and kind in _TIFF_TYPES:
            yield _TIFF_SIDES[tag], struct.unpack_from(order + _TIFF_TYPES[kind], data, place + value_at)[0]


def _pnm(data: bytes) -> Size | None:
    found = _PNM.match(data[:_BEGINNING])
    return (int(found[1]), int(found[2])) if found else None


def _pam(data: bytes) -> Size | None:
    sides: dict[bytes, int] = {}
    for key, value in _PAM.findall(data[:_BEGINNING].split(b"ENDHDR", 1)[0]):
        sides[key] = max(int(value), sides.get(key, 0))
    return (sides[b"WIDTH"], sides[b"HEIGHT"]) if len(sides) == 2 else None


def _jpeg2000(data: bytes) -> Size | None:
    """From the SIZ marker at the beginning of the code stream (ITU-T T.800, A.5.1): the grid, offsets included."""
    return _largest(data, rb"\xff\x4f\xff\x51....")


def _avif(data: bytes) -> Size | None:
    """From the property ``ispe`` of the images in the file (ISO/IEC 23008-12, 6.5.3)."""
    return _largest(data, rb"ispe\0\0\0\0")


def _largest(data: bytes, before: bytes) -> Size | None:
    """The largest size after a pattern, so that a false one elsewhere in the file cannot hide a larger one."""
    sizes = [struct.unpack_from(">II", data, match.end()) for match in re.finditer(before, data, re.S)]
    return max(sizes, key=lambda size: size[0] * size[1]) if sizes else None


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Size | None]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"RIFF....WEBP", re.S), _webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _tiff),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"P7"), _pam),
    (re.compile(rb"P[1-6Ff]"), _pnm),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), _jpeg2000),
    (re.compile(rb"....ftyp(?:avi[fs]|mif1)", re.S), _avif),
)
