"""Files made to exhaust memory or time: each refused in one line, by a process that has little memory to spare."""

import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import mmengine
import pytest
import torch

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint import limits
from mmcv_overrides.errors import UserError
from tests.support.commands import environment

SPARE = 600 * 2**20  # bytes of address space that the reading process gets beyond what its imports take
# Reads each file that is named and prints one line on it. A fault other than UserError ends it.
READER = f"""
import resource, sys
import mmcv_overrides
mmcv_overrides.activate()
import mmengine, torch
from mmcv_overrides import checkpoint, UserError
torch.set_num_threads(1)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {SPARE}, size + {SPARE}))
for path in sys.argv[1:]:
    read = checkpoint.load if path.endswith(".pth") else mmengine.load
    try:
        read(path)
        print("read", path)
    except UserError as error:
        print(str(error).replace("\\n", " NEWLINE "))
"""


def _archive(path, data, *others, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
        for name, content in others:
            archive.writestr(name, content)


def _deflated(path):
    _archive(path, pickle.dumps({"w": 1}, 2), ("a/data/0", bytes(200 * 2**20)), compression=zipfile.ZIP_DEFLATED)


def _expanded(path):
    torch.save({"w": torch.ones(1).expand(10**12)}, path)


def _history(path):
    torch.save(
        {"h": {"__history_buffer__": 1, "log": torch.ones(1).expand(10**11), "count": [1], "max_length": 1}}, path
    )


def _bytearray(path):
    _archive(path, b"\x80\x02cbuiltins\nbytearray\n" + b"\x8a\x08" + struct.pack("<q", 10**11) + b"\x85R.")


def _doubling(depth):
    """10 ** depth values in one list of lists of lists."""
    rows = [1]
    for _ in range(depth):
        rows = [rows] * 10
    return rows


def _repeated(path):
    torch.save({"meta": {"dataset_meta": {"classes": _doubling(15)}}, "w": torch.ones(1)}, path)


def _repeated_history(path):
    torch.save({"h": {"__history_buffer__": 1, "log": _doubling(12), "count": [1], "max_length": 1}}, path)


def _cycle(path):
    rows = []
    rows.append(rows)
    torch.save({"w": torch.ones(1), "x": rows}, path)


def _deep(path):
    _archive(path, b"\x80\x02}X\x01\0\0\0w" + b"]" * 100_000 + b"a" * 99_999 + b"s.")


def _storage(path):
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"M\xe8\x03") == 2
    path.write_bytes(data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"))


def _storage_zip(path):
    torch.save({"w": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(m, archive.read(m)) for m in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f") if name.endswith(".pkl") else data)


def _tar_header(path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 10**11
    path.write_bytes(member.tobuf() + bytes(1024))


def _tar_gz(path):
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))


def _two(path):
    _archive(path, pickle.dumps({"w": 1}, 2), ("a/data/0", b"1"), ("a/data/0", b"2"))


def _laughs(path):
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))


class _Pickled:
    """Pickled as a call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def _tensor_pickle(*changes):
    """A pickled tensor of four numbers with other arguments: (storage, offset, size, stride, ...)."""
    function, arguments = torch.ones(4).__reduce_ex__(2)
    arguments = (*changes, *arguments[len(changes) :])
    return lambda path: path.write_bytes(pickle.dumps(_Pickled(function, arguments)))


FILES = {
    "deflated.pth": (_deflated, "would expand to"),
    "expanded.pth": (_expanded, "would expand to"),
    "history.pth": (_history, "would expand to"),
    "bytearray.pth": (_bytearray, "bytearray of any size"),
    "repeated.pth": (_repeated, "expands to over 5000000 values"),
    "repeated_history.pth": (_repeated_history, "expands to over 5000000 values"),
    "cycle.pth": (_cycle, "contains itself"),
    "deep.pth": (_deep, "nested deeper than 200 levels"),
    "storage.pth": (_storage, "cannot be read"),
    "storage_zip.pth": (_storage_zip, "cannot be read"),
    "tar.pth": (_tar_header, "tar format"),
    "tar_gz.pth": (_tar_gz, "compressed with gzip"),
    "two.pth": (_two, "holds 'a/data/0' twice"),
    "laughs.yaml": (_laughs, "line 6: aliases repeat over 500000 values"),
    "merges.yaml": (lambda p: p.write_text("a: &a [*a]"), "line 1: '*a' contains itself"),
    # PyYAML 6.0.4 has a limit of its own ("maximum nesting depth") and meets it before ours.
    "brackets.yaml": (lambda p: p.write_text("[" * 100_000), "nest"),
    "brackets_300.yaml": (lambda p: p.write_text("[" * 300), "line 1: nested deeper than 200 levels"),
    "memo.pkl": (lambda p: p.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."), "read"),
    "bytes.pkl": (lambda p: p.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**42) + b"x."), "cannot be read"),
    "bytearray.pkl": (lambda p: p.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x."), "cannot be read"),
    "frame.pkl": (lambda p: p.write_bytes(b"\x80\x04\x95" + struct.pack("<Q", 2**42) + b"N."), "read"),
    "repeated.pkl": (lambda p: p.write_bytes(pickle.dumps(_doubling(15))), "expands to over 5000000 values"),
    "deep.pkl": (lambda p: p.write_bytes(b"]" * 100_000 + b"a" * 99_999 + b"."), "nested deeper than 200 levels"),
    "tensor_size.pkl": (_tensor_pickle(torch.ones(4).storage(), 0, (2**36,)), "larger than its storage"),
    "tensor_offset.pkl": (_tensor_pickle(torch.ones(4).storage(), -1), "is not a count"),
    "tensor_storage.pkl": (_tensor_pickle(_Pickled(torch.storage._load_from_bytes, (b"x",))), "cannot be read"),
    "extension.pkl": (lambda p: p.write_bytes(b"\x80\x02\x82\x01."), "cannot be read"),
}


def test_each_is_refused_in_one_line_without_the_memory_it_asks_for(tmp_path):
    for name, (write, _) in FILES.items():
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name in FILES]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, *paths],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(FILES)
    for line, (name, (_, says)) in zip(lines, FILES.items()):
        assert says in line and "NEWLINE" not in line, (name, line)
        assert line.startswith("read ") == (says == "read"), (name, line)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.load_from_local, checkpoint.safe_torch_load])
def test_devices_and_pipes_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", "/dev/zero"):
        with pytest.raises(UserError, match="not a regular file"):
            read(str(path))


def test_what_trainings_write_stays_within_the_limits(tmp_path):
    """Zeros that share a storage, tied weights, a large history, a checkpoint compressed by hand."""
    zeros = torch.zeros(1000, 1000)
    content = {
        "state_dict": {"a": zeros, "b": zeros, "c": zeros[0].expand(3, 1000)},
        "message_hub": {
            "h": {"__history_buffer__": 1, "log": torch.ones(10**6), "count": torch.ones(10**6), "max_length": 10**6}
        },
        "meta": {"classes": [f"class {n}" for n in range(2000)]},
    }
    torch.save(content, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as archive,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert (tmp_path / "b.pth").stat().st_size * limits.MAX_EXPANSION < (tmp_path / "a.pth").stat().st_size
    for name in ("a.pth", "b.pth"):
        found = checkpoint.load(tmp_path / name)
        assert found["state_dict"]["c"].shape == (3, 1000) and found["state_dict"]["b"].sum() == 0
        assert len(found["message_hub"]["h"].data[0]) == 10**6


def test_yaml_of_others_is_read_with_its_aliases(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &b {lr: 0.1, steps: [1, 2]}\none: *b\ntwo:\n  <<: *b\n  lr: 0.2\n")
    found = mmengine.load(str(tmp_path / "a.yaml"))
    assert found["one"] == {"lr": 0.1, "steps": [1, 2]} and found["two"] == {"lr": 0.2, "steps": [1, 2]}
    (tmp_path / "b.yaml").write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(UserError, match="line 3: cannot be read as YAML"):
        mmengine.load(str(tmp_path / "b.yaml"))
