"""Downloads a file: continued where it broke off, checked by its SHA-256, visible under its name only when complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from filelock import FileLock

from mmcv_overrides.errors import UserError

TIMEOUT_S, CHUNK, ATTEMPTS = 20.0, 1 << 20, 4
Advance = Callable[[int, int | None], None]  # bytes that are here, and bytes in all if the server says so


def right_content(file: Path, digest: str | None) -> bool:
    """Whether the SHA-256 of a file begins with ``digest``; without a digest nothing is known against it."""
    if digest is None:
        return True
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest().startswith(digest)


def download(file: Path, addresses: Sequence[str], digest: str | None) -> str:
    """Download from the first address that has the file with the right content.

    A download that breaks off leaves ``.<name>.part`` beside ``file``, where the next one continues. One process
    downloads, others wait for it.

    Args:
        file: where to; it is replaced. digest: the first digits of the SHA-256; None: the content is not checked.

    Returns:
        the address.

    Raises:
        UserError: no address has it; the message has the reason for each.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    faults = []
    with FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists() and digest is not None and right_content(file, digest):
            return "another process"
        part = file.with_name(f".{file.name}.part")
        for address in addresses:
            if digest is None:
                part.unlink(missing_ok=True)  # the part may be of another file: nothing would tell afterwards
            fault = _from(address, part, digest) or (_no_weights(part) if digest is None else None)
            if fault is None:
                os.replace(part, file)
                return address
            if digest is None:
                part.unlink(missing_ok=True)
            faults.append(f"{urlparse(address).netloc or address}: {fault}")
    raise UserError(f"cannot download {file.name}: " + "; ".join(faults))


def _no_weights(part: Path) -> str | None:
    """Why a file that nobody has published a hash of cannot be one of weights; None if nothing speaks against it."""
    with open(part, "rb") as opened:
        head = opened.read(64).lstrip()
    if not head:
        return "the file is empty; it was not kept"
    if head.lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "it is a web page or a message of the server, not weights; it was not kept"
    if head.startswith(b"PK") and not zipfile.is_zipfile(part):
        return "the end of the file is missing; it was not kept"
    return None


def _from(address: str, part: Path, digest: str | None) -> str | None:
    """Complete ``part`` from one address. Returns what went wrong, or None."""
    fault: str | None = None
    for _ in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            with _progress(part.name.removeprefix(".").removesuffix(".part")) as advance:
                _continue(address, part, advance)
            break
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.reason} ({urlparse(address).path})"
        except (OSError, http.client.HTTPException) as error:
            fault = str(getattr(error, "reason", None) or error)
        except ValueError as error:  # not an address
            return str(error)
        if not part.exists() or part.stat().st_size <= before:  # another attempt would fail at the same place
            return fault
    else:
        return f"{fault}; what is here is kept, and the next start continues"
    if right_content(part, digest):
        return None
    part.unlink()
    return f"its SHA-256 does not begin with {digest}: the file is another one or was damaged; it was not kept"


def _continue(address: str, part: Path, advance: Advance) -> None:
    """Append what ``part`` lacks; a server that cannot continue sends all of it again.

    Raises:
        OSError, http.client.HTTPException: the connection failed or ended early.
    """
    here = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={here}-"} if here else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and here:  # nothing follows: the part is complete, or of another file
            return
        raise
    with response, open(part, "ab") as out:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            out.truncate(0)
            here = 0
        length = response.headers.get("Content-Length")
        total = here + int(length) if length else None
        while block := response.read(CHUNK):
            out.write(block)
            here += len(block)
            advance(here, total)
    if total is not None and here < total:
        raise OSError(f"the connection ended after {here} of {total} bytes")


@contextmanager
def _progress(name: str) -> Iterator[Advance]:
    """A bar on a terminal; nothing in a file or a pipe, where the line before and after say enough."""
    if not sys.stderr.isatty():
        yield lambda here, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total)
