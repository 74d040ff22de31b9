"""What the first bytes of an image file say besides its size: the EXIF orientation, the depth, and what it is instead.

The orientation is that by which OpenCV turns the image when it loads it: of JPEG, PNG and TIFF files. OpenCV does not
turn other formats, and does not look at XMP.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from fcos_train.data.image_header import JPEG_FRAMES

_ORIENTATION, _BITS, _COMPRESSION = 274, 258, 259  # tags of TIFF and EXIF
_SHORT = 3  # the type of all three
_TIFF_USUAL = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, Deflate
_JPEG_USUAL = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive Huffman coding
_PNG_EXIF = re.compile(rb"eXIf(?=II\*\0|MM\0\*)")

# What is often found under the name of an image, by its first bytes.
_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", re.S), "a HEIC image; convert it to JPEG or PNG"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL image; convert it to JPEG or PNG"),
    (re.compile(rb"....ftyp", re.S), "a video (MP4 or MOV)"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"%PDF"), "a PDF file"),
    (re.compile(rb"PK\x03\x04|Rar!|7z\xbc\xaf"), "an archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip file"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS; fetch the file: git lfs pull"),
    (re.compile(rb"\s*<(?:!doctype html|html|head|body)", re.I), "an HTML page, as a failed download leaves it"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*(?:<!--.*?-->\s*)*)?<svg", re.I | re.S), "an SVG drawing"),
    (re.compile(rb"\s*<[?\w]"), "an XML file"),
    (re.compile(rb"\s*[{\[]"), "a JSON file"),
    (re.compile(rb"\0{64}"), "a file of zeros"),
)


def what_else(data: bytes) -> str | None:
    """What a file that is not an image is, with the way out where there is one; None if that is unknown.

    Args:
        data: the beginning of the file.
    """
    return next((what for signature, what in _OTHERS if signature.match(data[:4096])), None)


def orientation(data: bytes, tail: bytes = b"") -> int:
    """The EXIF orientation, 1 to 8, by which OpenCV turns the image; 1 (as stored) if there is none.

    Args:
        data: the beginning of the file; of a TIFF file all of it.
        tail: the end of the file; PNG may have the orientation there.
    """
    for part, start in _tag_blocks(data, tail):
        value = next((value for tag, value in _tags(part, start) if tag == _ORIENTATION), 1)
        return value if 1 <= value <= 8 else 1
    return 1


def is_deep(data: bytes) -> bool:
    """Whether a PNG, TIFF or PNM file has 16 bits for each colour, of which OpenCV keeps the upper 8.

    Args:
        data: as for :func:`orientation`.
    """
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    if data[:2] in (b"P5", b"P6"):
        found = re.match(rb"P[56](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)\s", data[:4096])
        return found is not None and int(found[1]) > 255
    if data[:4] in (b"II*\0", b"MM\0*"):
        return (_BITS, 16) in _tags(data, 0)
    return False


def is_unusual(data: bytes) -> bool:
    """Whether a JPEG or TIFF file is of a kind that OpenCV may not decode: lossless, of 12 bits, or rarely compressed.

    Args:
        data: as for :func:`orientation`.
    """
    if data.startswith(b"\xff\xd8"):
        frames = ((marker, data[at]) for marker, at in _segments(data) if marker in JPEG_FRAMES and at < len(data))
        return any(marker not in _JPEG_USUAL or bits != 8 for marker, bits in frames)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return any(tag == _COMPRESSION and value not in _TIFF_USUAL for tag, value in _tags(data, 0))
    return False


def _tag_blocks(data: bytes, tail: bytes) -> Iterator[tuple[bytes, int]]:
    """The parts, and where in them the TIFF structures start, that may hold the orientation."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        yield data, 0
    elif data.startswith(b"\xff\xd8"):
        yield from ((data, start) for start in _jpeg_blocks(data))
    elif data.startswith(b"\x89PNG"):  # before the pixels or after them
        yield from ((part, found.end()) for part in (data, tail) for found in _PNG_EXIF.finditer(part))


def _jpeg_blocks(data: bytes) -> Iterator[int]:
    for marker, content in _segments(data):
        if marker == 0xE1 and data[content : content + 6] == b"Exif\0\0":
            yield content + 6


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its content starts) of the segments of a JPEG file up to its pixels."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        yield marker, place + 4
        if marker == 0xDA:
            return
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]


def _tags(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """(tag, first value) of the short integers in the first directory of the TIFF structure at ``start``."""
    order = "<" if data[start : start + 2] == b"II" else ">"
    try:
        directory = start + struct.unpack_from(order + "I", data, start + 4)[0]
        (count,) = struct.unpack_from(order + "H", data, directory)
        for place in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", data, place)
            if kind == _SHORT:
                value_at = place + 8 if values <= 2 else start + struct.unpack_from(order + "I", data, place + 8)[0]
                yield tag, struct.unpack_from(order + "H", data, value_at)[0]
    except struct.error:  # the file ends here
        return
