"""Hands files that must never be opened to every reader of the product, and prints what each answers, as JSON.

``python special_files.py FOLDER`` in a process of its own, with a limit on memory and an alarm for each reader: a
reader that opens a named pipe waits for ever, and one that reads ``/dev/zero`` takes all memory there is.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import mmcv_overrides

mmcv_overrides.activate()

import numpy as np
from mmengine.config import Config

from fcos_train.data import make_shapes, resolve
from fcos_train.data.file_index import FileIndex
from fcos_train.data.headers import read_header
from fcos_train.data.images import read_image
from fcos_train.data.loading import LoadImage
from fcos_train.data.voc_layout import read_list
from fcos_train.deploy.ascend import aipp, dumps, info, preprocess, txt_to_json
from fcos_train.deploy.ascend.rules import RULES
from fcos_train.deploy.parts import classes
from fcos_train.deploy.parts import coco_numbers as coco_eval
from fcos_train.deploy.parts import description as sidecar
from fcos_train.evaluation.coco_scores import load_annotations
from fcos_train.infer.sources import open_source
from fcos_train.infer.validation_images import validation_images
from mmcv_overrides.errors import UserError

SPARE, SECONDS = 2 << 30, 20  # bytes of address space beyond what the imports take; seconds for a reader


def bomb(path: Path, side: int = 30_000) -> Path:
    """A sound PNG of side x side black pixels, one bit each: 0.1 MB that decode to 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row, pack = b"\0" * ((side + 7) // 8 + 1), zlib.compressobj()
    pixels = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def readers(scratch: Path, data: Path) -> dict[str, Callable[[Path], object]]:
    """Every reader of a file that an annotation, a list, a folder or a config names, as a function of that file."""

    def placed(name: str, folder: str) -> Callable[[Path], Path]:
        def place(target: Path) -> Path:
            path = scratch / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
            return path

        return place

    picture, dump = placed("a.jpg", "pictures"), placed("a_0.bin", "dumps")

    def dumped(target: Path) -> object:
        dump(target).with_name("a_1.bin").write_bytes(b"")
        return dumps.Dumps(scratch / "dumps", ["a"]).read("a")

    def allowed_annotations(target: Path) -> object:
        path = data / "annotations" / "instances_train2017.json"
        kept = path.read_bytes()
        path.unlink()
        path.symlink_to(target)
        try:
            return resolve(data, scratch / "cache", allow_outside=["/"])
        finally:
            path.unlink()
            path.write_bytes(kept)

    def validation(target: Path) -> Config:
        return Config({"val_dataloader": {"dataset": {"ann_file": str(target), "data_root": ""}}})

    return {
        "read_image": read_image,
        "read_header": read_header,
        "training": lambda path: LoadImage()({"img_path": str(path)}),
        "training, local backend": lambda path: LoadImage(backend_args={"backend": "local"})({"img_path": str(path)}),
        "demo": lambda path: list(open_source(path)),
        "demo, folder": lambda path: list(open_source(picture(path).parent)),
        "preprocess": lambda path: preprocess.preprocess(
            picture(path).parent, scratch / "bin", RULES["fsaf"].at(32, 32), 1
        ),
        "info": lambda path: info.image_info(str(picture(path).parent), scratch / "out.info"),
        "annotations": allowed_annotations,
        "annotations of the metric": load_annotations,
        "ids": classes.read_truth,
        "results": coco_eval.read_results,
        "description": sidecar.read_description,
        "AIPP": aipp.read_aipp,
        "info file": info.read_info,
        "VOC list": lambda path: read_list(path, FileIndex(())),
        "texts": lambda path: txt_to_json.collect(placed("1.txt", "texts")(path).parent, classes.coco_truth()),
        "dumps": dumped,
        "demo, config of the checkpoint": lambda path: validation_images(validation(path), annotated=True),
        "export, config of the checkpoint": lambda path: validation_images(validation(path)),
    }  # fmt: skip


def answer(read: Callable[[Path], object], path: Path) -> str:
    """`UserError: message`, `None`, or what went wrong."""

    def late(*_) -> None:
        raise TimeoutError("still reading")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return f"returned {read(path)!r:.60}"
    except UserError as error:
        return f"UserError: {error}"
    except BaseException as error:  # the test shows it
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main(folder: Path) -> None:
    data = make_shapes(folder / "data", train=2, val=2, size=(64, 64))
    files = {
        "device": Path("/dev/zero"),
        "pipe": folder / "pipe",
        "socket": folder / "socket",
        "folder": folder / "empty",
    }
    os.mkfifo(files["pipe"])
    files["folder"].mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(files["socket"]))
    found = {kind: {} for kind in files}
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for kind, path in files.items():
        for name, read in readers(folder, data).items():
            if kind == "folder" and name == "demo":
                continue  # a folder of pictures is what it takes
            found[kind][name] = answer(read, path)
    huge = bomb(folder / "bomb.png")
    pictures = ("read_image", "read_header", "training", "demo", "demo, folder", "preprocess", "info")
    found["bomb"] = {name: answer(readers(folder, data)[name], huge) for name in pictures}
    np.zeros(1)  # numpy is alive under the limit
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
