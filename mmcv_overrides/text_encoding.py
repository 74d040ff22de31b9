"""Text files of others: UTF-8, UTF-16, and the multi-byte encodings of East Asia, declared or not."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Files that declare an encoding often hold characters of its superset.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}
_KANA = re.compile("[\u3041-\u30fa]")
_LAST_FREQUENT = 0xD7  # first byte of a character in GB2312
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")


class UnknownEncoding(ValueError):
    """Text in an encoding that is neither declared nor certain."""


def decode_text(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Decode the content of a text file.

    A byte order mark decides; then UTF-16, which shows in zero bytes; then UTF-8 or ``declared``, whichever fits; then
    GBK or Shift_JIS, if the bytes are common text in exactly one of them.

    Args:
        data: the content.
        declared: the encoding that the file names, if it does. A wrong one is passed over.

    Returns:
        the text, and the name of its encoding: "utf-8" for UTF-8 without a mark.

    Raises:
        UnknownEncoding: none of them fits, or several do.
        UnicodeDecodeError: what follows a byte order mark does not fit it.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name), name
    wide = _wide(data)
    if wide:
        return data.decode(wide), wide
    named = _codec(declared)
    as_declared = _decoded(data, named) if named else None
    text = _decoded(data, "utf-8")
    if text is not None and (as_declared is None or named is None or _certain(text, named)):
        return text, "utf-8"
    if as_declared is not None and named is not None:
        return as_declared, named
    return _guessed(data)


def _certain(text: str, declared: str) -> bool:
    """Whether bytes that UTF-8 decodes to ``text`` are UTF-8 although another encoding is declared.

    Two bytes of GBK may be a letter of UTF-8 (up to U+07FF); longer sequences are not met by chance.
    """
    return not declared.startswith("iso2022") and (text.isascii() or max(text) > "\u07ff")


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: the first character is ASCII, so one of its two bytes is 0."""
    first = data[:2]
    if len(first) < 2 or len(data) % 2 or (first[0] == 0) == (first[1] == 0):
        return None
    return "utf-16-be" if first[0] == 0 else "utf-16-le"


def _codec(declared: str | None) -> str | None:
    """Python's name of a declared encoding of text; None if there is none, or it is one of UTF, which was tried."""
    try:
        name = codecs.lookup(declared or "utf-8").name
    except LookupError:
        return None
    known = name.startswith(("gb", "big5", "shift_jis", "cp", "euc", "iso8859", "iso2022", "koi8", "mac", "ascii"))
    return _SUPERSETS.get(name, name) if known else None


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _guessed(data: bytes) -> tuple[str, str]:
    """GBK if most characters are common Chinese, Shift_JIS if there are kana.

    GB2312, which all common Chinese characters are in, has none that begin with a byte below 0xA1, with which common
    Japanese begins. Latin-1 has an ASCII letter after most others, which neither admits as a rule.
    """
    japanese = _decoded(data, "cp932")
    if japanese is not None and _KANA.search(japanese) and not _HALF_WIDTH.search(japanese):
        return japanese, "shift_jis"
    chinese = _decoded(data, "gbk")
    if chinese is not None and _is_common_chinese(chinese):
        return chinese, "gbk"
    raise UnknownEncoding(
        "its encoding is neither UTF-8 nor declared, and the text does not tell it (GBK, Shift_JIS, Latin-1 and others "
        "are possible): convert it to UTF-8 or declare the encoding"
    )


def _is_common_chinese(text: str) -> bool:
    """Whether four of five characters are in GB2312 and half are among its first, most frequent 3755."""
    foreign = [character for character in text if not character.isascii()]
    known = [code for character in foreign if (code := character.encode("gb2312", "ignore"))]
    frequent = sum(code[0] <= _LAST_FREQUENT for code in known)
    return len(known) >= 0.8 * len(foreign) and frequent >= 0.5 * len(foreign)
