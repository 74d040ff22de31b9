"""A file server on this machine with the faults of real ones: broken connections, no ranges, damaged files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served, and how.

    Attributes:
        content: path -> bytes. breaks: for each request to come, the bytes after which its connection ends.
        ranges: whether requests for a part are answered with one. asked: (path, range header) of every request.
    """

    content: dict[str, bytes]
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve them on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802  (the library's name)
            answer(self, files)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, files: Files) -> None:
    span = request.headers.get("Range")
    files.asked.append((request.path, span))
    body = files.content.get(request.path)
    if body is None:
        request.send_error(404)
        return
    start = int(span.removeprefix("bytes=").removesuffix("-")) if span and files.ranges else 0
    if span and files.ranges and start >= len(body):
        request.send_error(416)
        return
    request.send_response(206 if span and files.ranges else 200)
    if span and files.ranges:
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    request.wfile.write(body[start : start + files.breaks.pop(0) if files.breaks else None])
