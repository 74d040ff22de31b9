"""Images from the web, by an address that a user gives; no file or configuration can ask for one."""

from __future__ import annotations

import re
import time
from urllib.parse import unquote, urlsplit

import numpy as np

from fcos_train.data.images import UnreadableImage, decode_image, require_limits

MAX_BYTES = 64 << 20
TIMEOUT = (10, 30)  # seconds for the connection, and for the next part of the answer
SECONDS = 120  # for the whole image
REDIRECTS = 5
PART = 1 << 16


def is_web(address: str) -> bool:
    """Whether this is an address that :func:`fetch_image` reads."""
    return address.lower().startswith(("http://", "https://"))


def shown(address: str) -> str:
    """The address without user name and password, for messages and files."""
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


def file_name(address: str) -> str:
    """A file name made of the last part of an address, else of its host: letters, digits and ``_.-`` only."""
    parts = urlsplit(shown(address))
    last = unquote(parts.path.rstrip("/").rsplit("/", 1)[-1]) or parts.hostname or "image"
    return re.sub(r"[^\w.-]+", "_", last).lstrip(".") or "image"


def fetch_image(address: str) -> np.ndarray:
    """Download an image, within limits of time, size and pixels.

    Returns:
        uint8 [H, W, 3] in BGR order, turned by its EXIF orientation.

    Raises:
        UnreadableImage: no connection, another answer than an image, or one beyond the limits.
    """
    data, name = _download(address), shown(address)
    require_limits(data, name)
    return decode_image(data, name)


def _download(address: str) -> bytes:
    import requests
    from urllib3.exceptions import HTTPError

    def fault(reason: str) -> UnreadableImage:
        return UnreadableImage.of(shown(address), reason)

    end = time.monotonic() + SECONDS
    with requests.Session() as session:
        session.max_redirects = REDIRECTS
        try:
            with session.get(address, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code != 200:
                    raise fault(f"the server answers {answer.status_code} {answer.reason}".rstrip())
                return _body(answer, end, fault)
        except requests.TooManyRedirects:
            raise fault(f"more than {REDIRECTS} redirections") from None
        except requests.Timeout:
            raise fault("the server does not answer in time") from None
        except (requests.ConnectionError, HTTPError):
            raise fault("no connection, or it broke off") from None
        except (requests.RequestException, ValueError):  # ValueError: of the parser of addresses
            raise fault("the address is not valid") from None


def _body(answer, end: float, fault) -> bytes:  # type: ignore[no-untyped-def]
    """The content of an answer, read in parts so that the limits hold whatever its header says."""
    limit = f"it is larger than {MAX_BYTES >> 20} MiB"
    stated = answer.headers.get("Content-Length", "")
    if stated.isdecimal() and int(stated) > MAX_BYTES:
        raise fault(limit)
    parts, size = [], 0
    while part := answer.raw.read1(PART, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise fault(limit)
        if time.monotonic() > end:
            raise fault(f"it takes longer than {SECONDS} seconds")
    return b"".join(parts)
