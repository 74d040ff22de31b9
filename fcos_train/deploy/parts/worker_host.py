"""Answers calls in another Python: this file is run there, by path, with the file of the functions to call.

A vendor's toolkit often needs versions of numpy, onnx or Python itself that exclude this project's. It gets an
environment of its own, and :class:`fcos_train.deploy.parts.worker.Worker` talks to it through pipes. This file
therefore imports the standard library and numpy only, of any version since Python 3.9 and numpy 1.20.

A frame is a length in bytes (u64, little-endian) and an `.npz` archive: `head` is JSON in UTF-8, `a0`, `a1`, .. are
arrays. Nothing is pickled.

    request {"call": NAME, "values": {..}} + arrays  ->  {"values": {..}} + arrays,  or  {"error": TEXT, "kind": CLASS}
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

LENGTH = struct.Struct("<Q")
Head = dict[str, Any]
Frame = tuple[Head, list[np.ndarray]]
# A function that can be called: arrays and keywords in, values for JSON and arrays out.
Call = Callable[..., tuple[Head, Sequence[np.ndarray]]]


def packed(head: Head, arrays: Sequence[np.ndarray]) -> bytes:
    """A frame.

    Raises:
        ValueError: an array holds Python objects.
    """
    if any(np.asarray(array).dtype.hasobject for array in arrays):
        raise ValueError("arrays of Python objects are not sent")
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(head).encode(), np.uint8)
    named: Any = {f"a{index}": array for index, array in enumerate(arrays)}
    np.savez(file, head=text, **named)
    content = file.getvalue()
    return LENGTH.pack(len(content)) + content


def unpacked(content: bytes) -> Frame:
    """Head and arrays of a frame without its length."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = [archive[f"a{index}"] for index in range(len(archive.files) - 1)]
        return json.loads(archive["head"].tobytes().decode()), arrays


def read_frame(read: Callable[[int], bytes]) -> Frame | None:
    """Read a frame; None at the end of the stream, also in the middle of a frame.

    Args:
        read: returns exactly the given number of bytes, fewer only at the end.
    """
    size = read(LENGTH.size)
    if len(size) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(size)
    content = read(length)
    return unpacked(content) if len(content) == length else None


def answer(calls: dict[str, Call], head: Head, arrays: list[np.ndarray]) -> bytes:
    """The frame that answers a request; an exception becomes an answer as well."""
    try:
        values, results = calls[head["call"]](arrays, **head["values"])
        return packed({"values": values}, results)
    except Exception as error:
        traceback.print_exc()  # standard error is the log of the worker
        return packed({"error": str(error) or repr(error), "kind": type(error).__name__}, [])


def load_calls(path: str) -> dict[str, Call]:
    """The table ``CALLS`` (name -> function) of a Python file."""
    spec = importlib.util.spec_from_file_location("worker_calls", path)
    if spec is None or spec.loader is None:
        raise ImportError(path + " is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.CALLS


def serve(path: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the source ends. The first answer, before any request, says that the file was loaded."""
    try:
        calls = load_calls(path)
        ready = packed({"values": {"python": sys.version.split()[0]}}, [])
    except Exception as error:
        traceback.print_exc()
        calls, ready = {}, packed({"error": str(error) or repr(error), "kind": type(error).__name__}, [])
    sink.write(ready)
    sink.flush()
    while calls:
        request = read_frame(source.read)
        if request is None:
            return
        sink.write(answer(calls, *request))
        sink.flush()


def main() -> None:
    """Serve on standard input and output. What the toolkit prints goes to standard error instead."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="replace")  # by lines: the log is whole if the process crashes
    serve(sys.argv[1], sys.stdin.buffer, sink)
    sink.close()


if __name__ == "__main__":
    main()
