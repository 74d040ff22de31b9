"""Files that create a marker when a reader executes them, one function for each format."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


class Opens:
    """Unpickling it creates the file ``marker``."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def _content(marker: Path) -> dict:
    return {"state_dict": {"w": torch.ones(2)}, "meta": {"epoch": 1, "iter": 1}, "x": Opens(marker)}


def _zip(marker: Path, path: Path) -> None:
    torch.save(_content(marker), path)


def _zip_protocol_4(marker: Path, path: Path) -> None:
    torch.save(_content(marker), path, pickle_protocol=4)


def _legacy(marker: Path, path: Path) -> None:
    torch.save(_content(marker), path, _use_new_zipfile_serialization=False)


def _plain(marker: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({"x": Opens(marker)}))


def _protocol_0(marker: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({"x": Opens(marker)}, protocol=0))


def _protocol_2(marker: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({"x": Opens(marker)}, protocol=2))


def _in_state_dict(marker: Path, path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2), "x": Opens(marker)}, "meta": {}}, path)


def _nested(marker: Path, path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"a": [({"b": (Opens(marker),)},)]}}, path)


def _tar(marker: Path, path: Path, mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(Opens(marker), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _tar_gz(marker: Path, path: Path) -> None:
    _tar(marker, path, "w:gz")


def _opcodes(kind: str, marker: Path) -> bytes:
    """A pickle written by hand that calls ``open`` through one opcode, within a dict."""
    argument = b"X" + len(str(marker)).to_bytes(4, "little") + str(marker).encode() + b"X\x01\0\0\0w"
    call = {
        "GLOBAL": b"cbuiltins\nopen\n(" + argument + b"tR",
        "INST": b"(" + argument + b"ibuiltins\nopen\n",
        "OBJ": b"(cbuiltins\nopen\n" + argument + b"o",
        "STACK_GLOBAL": b"\x8c\x08builtins\x8c\x04open\x93(" + argument + b"tR",
    }[kind]
    return b"\x80\x04}X\x01\0\0\0x" + call + b"s."


def _by_hand(kind: str, zipped: bool) -> Callable[[Path, Path], None]:
    def write(marker: Path, path: Path) -> None:
        data = _opcodes(kind, marker)
        if not zipped:
            path.write_bytes(data)
            return
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")

    return write


def _twice(marker: Path, path: Path) -> None:
    """Two data.pkl: readers of zip files differ in which they take."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}, protocol=2))
        archive.writestr("archive/data.pkl", _opcodes("GLOBAL", marker))
        archive.writestr("archive/version", "3\n")


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "zip": _zip,
    "zip_protocol_4": _zip_protocol_4,
    "legacy": _legacy,
    "pickle": _plain,
    "pickle_0": _protocol_0,
    "pickle_2": _protocol_2,
    "in_state_dict": _in_state_dict,
    "nested": _nested,
    "tar": _tar,
    "tar_gz": _tar_gz,
    "two_data_pkl": _twice,
    **{f"{kind}_{'zip' if zipped else 'pickle'}": _by_hand(kind, zipped)
       for kind in ("GLOBAL", "INST", "OBJ", "STACK_GLOBAL") for zipped in (False, True)},
}  # fmt: skip

# Configuration text in a checkpoint; {mark} is the marker.
PROGRAMS = (
    "open('{mark}', 'w')",
    "import os\nos.mkdir('{mark}')",
    "gpu_ids = [open('{mark}', 'w')]",
    "a = f\"{{open('{mark}', 'w')}}\"",
)


def with_text(path: Path, **meta: str) -> Path:
    """A checkpoint of plain values and tensors, training state included, with these texts in its meta."""
    layer = torch.nn.Linear(1, 1)
    state = {
        "state_dict": {f"body.{name}": value for name, value in layer.state_dict().items()},
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        "optimizer": torch.optim.SGD(layer.parameters(), lr=0.1).state_dict(),
        "meta": {"epoch": 0, "iter": 1, **meta},
    }
    torch.save(state, path)
    return path


YAML_TAGS = (
    "a: !!python/object/apply:builtins.open ['{mark}', 'w']",
    "a: !!python/object/new:os.mkdir ['{mark}']",
    "a: !!python/object/apply:os.system ['touch {mark}']",
    "a: !!python/object/apply:subprocess.check_call [[touch, '{mark}']]",
    "a: !!python/name:os.system",
    "a: !!python/module:antigravity",
    "!!python/object/apply:builtins.open ['{mark}', 'w']: a",
    "a: &x !!python/object/new:type {{args: [z, !!python/tuple [], {{extend: !!python/name:exec }}], "
    "listitems: \"open('{mark}', 'w')\"}}",
)
