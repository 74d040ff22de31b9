"""Reading: nothing in a file is executed, what is harmless is read, every fault has one message."""

import http.server
import os
import pickle
import tarfile
import threading
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.mmengine_functions import load_from_local, load_url, safe_torch_load
from mmcv_overrides.errors import UserError


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def _as_zip(bomb, path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": bomb}, path)


def _as_legacy(bomb, path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": bomb}, path, _use_new_zipfile_serialization=False)


def _as_pickle(bomb, path, protocol=None):
    path.write_bytes(pickle.dumps({"x": bomb}, protocol=protocol))


def _as_pickle_2(bomb, path):
    _as_pickle(bomb, path, 2)


def _as_tar(bomb, path):
    inner = path.with_suffix(".inner")
    for name in ("sys_info", "pickle", "tensors", "storages"):
        inner.write_bytes(pickle.dumps(bomb, protocol=2))
        with tarfile.open(path, "a" if path.exists() else "w") as archive:
            archive.add(inner, arcname=name)


@pytest.fixture(autouse=True)
def _no_trust(monkeypatch):
    monkeypatch.delenv("FCOS_TRUST_CHECKPOINT", raising=False)


@pytest.mark.parametrize("write", [_as_zip, _as_legacy, _as_pickle, _as_pickle_2, _as_tar])
@pytest.mark.parametrize("read", [checkpoint.load, load_from_local, safe_torch_load])
def test_malicious_file_executes_nothing_and_is_refused(tmp_path, write, read):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    write(Bomb(marker), path)
    with pytest.raises(UserError) as caught:
        read(str(path), map_location="cpu")
    assert not marker.exists()
    assert "evil.pth" in str(caught.value) and caught.value.setting == "trust_checkpoint"
    expected = "tar format" if write is _as_tar else "system"
    assert expected in str(caught.value)


def test_explicit_weights_only_false_is_no_way_around(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    _as_zip(Bomb(marker), path)
    with pytest.raises(UserError), open(path, "rb") as file:
        safe_torch_load(file, weights_only=False)
    assert not marker.exists()


@pytest.mark.parametrize("where", ["argument", "with", "environment"])
def test_trust_is_explicit_and_local(tmp_path, monkeypatch, where):
    marker, path = tmp_path / "marker", tmp_path / "mine.pth"
    _as_zip(Bomb(marker), path)
    if where == "argument":
        found = checkpoint.load(path, trust=True)
    elif where == "with":
        with checkpoint.trust_checkpoints():
            found = checkpoint.load(path)
    else:
        monkeypatch.setenv("FCOS_TRUST_CHECKPOINT", "1")
        found = checkpoint.load(path)
        monkeypatch.delenv("FCOS_TRUST_CHECKPOINT")
    assert marker.exists() and found["x"] == 0
    assert not checkpoint.trusted()
    with pytest.raises(UserError):
        checkpoint.load(path)


@pytest.mark.parametrize("attack", ["getattr", "array", "dtype", "encode"])
def test_allowed_names_are_no_tools(tmp_path, attack):
    """The allow-listed names, called with hostile arguments, reach nothing real."""
    marker = tmp_path / "marker"

    class Tool:
        def __reduce__(self):
            if attack == "getattr":
                return getattr, (torch.Tensor, "numpy")
            if attack == "array":
                return np.ndarray, ((1,), np.dtype("O"))
            if attack == "dtype":
                return np.dtype, ("O",)
            import codecs

            return codecs.encode, ("uryyb", "rot13")

    path = tmp_path / "tool.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Tool()}, path)
    try:
        found = checkpoint.load(path)["x"]
    except UserError:
        found = None
    assert found is None or not callable(found)
    assert not (isinstance(found, np.ndarray) and found.dtype == object)
    assert not marker.exists()


def test_mmengine_checkpoint_of_others_is_read(tmp_path):
    """As upstream writes it: history with its functions through getattr, numpy scalars and arrays, config dicts."""
    history = HistoryBuffer([1.5, 2.5, 4.0], [1, 1, 2], max_length=10)
    counts = defaultdict(list)
    counts["a"].append(3)
    meta = {
        "score": np.float64(0.25),
        "flag": np.bool_(True),
        "box": np.arange(6, dtype=np.float32).reshape(2, 3, order="F"),
        "names": np.array(["ab", "c"]),
        "cfg": ConfigDict(a=1, b=dict(c=2)),
        "counts": counts,
        "raw": b"\x00\xff",
    }
    weights = OrderedDict(w=torch.arange(3.0))
    weights._metadata = OrderedDict({"": {"version": 1}})
    path = tmp_path / "others.pth"
    torch.save({"meta": meta, "state_dict": weights, "message_hub": {"log_scalars": {"loss": history}}}, path)
    found = checkpoint.load(path)
    loss = found["message_hub"]["log_scalars"]["loss"]
    assert type(loss) is HistoryBuffer and loss.max_length == 10
    assert loss.data[0].tolist() == [1.5, 2.5, 4.0] and loss.data[1].tolist() == [1, 1, 2]
    assert loss.statistics("mean") == 2.0
    meta = found["meta"]
    assert meta["score"] == 0.25 and meta["flag"] is True and meta["raw"] == b"\x00\xff"
    np.testing.assert_array_equal(meta["box"], np.arange(6, dtype=np.float32).reshape(2, 3, order="F"))
    assert meta["names"].tolist() == ["ab", "c"]
    assert meta["cfg"] == {"a": 1, "b": {"c": 2}} and type(meta["cfg"]["b"]) is dict
    assert meta["counts"] == {"a": [3]}
    assert found["state_dict"]._metadata[""] == {"version": 1}


def test_allow_list_of_others_survives(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([Path])
    try:
        torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
        checkpoint.load(tmp_path / "a.pth")
        assert set(torch.serialization.get_safe_globals()) == before | {Path}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def _good(path):
    checkpoint.save({"state_dict": {"w": torch.arange(1000.0)}, "meta": {}}, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.symlink_to("gone.pth"), "is a link to gone.pth"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(_good(p)[:-700]), "truncated"),
        (lambda p: p.write_bytes(_good(p)[:40]), "truncated"),
        (lambda p: p.write_bytes(bytes(len(_good(p)))), "cannot be read"),
        (lambda p: p.write_bytes(b"hello, this is text"), "cannot be read"),
        (lambda p: p.write_text("<!DOCTYPE html><html>404</html>"), "web page"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=2)), "cannot be read"),
        (lambda p: torch.save(torch.ones(2), p), "contains a Tensor"),
        (lambda p: torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), str(p)), "TorchScript"),
        (
            lambda p: zipfile.ZipFile(p, "w").close() or zipfile.ZipFile(p, "a").writestr("a", "b"),
            "zip archive, but not",
        ),
    ],
)
def test_every_fault_of_a_file_has_one_message(tmp_path, make, says):
    path = tmp_path / "it.pth"
    make(path)
    with pytest.raises(UserError, match=says) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path):
    """torch.load takes all of these: the values differ, and a training would go on with them."""
    path = tmp_path / "it.pth"
    whole = _good(path)
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    pickled = whole.index(b"state_dict")
    path.write_bytes(whole[:pickled] + b"X" + whole[pickled + 1 :])
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(path)
    for place in np.random.default_rng(0).integers(start * 8, (start + 4000) * 8, 60).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert not torch.equal(torch.load(path)["state_dict"]["w"], torch.arange(1000.0))
        with pytest.raises(UserError, match=r"it\.pth cannot be read: .*the checksum of archive/data/0 is wrong"):
            checkpoint.load(path)


def test_a_file_without_checksums_is_read(tmp_path):
    path, before = tmp_path / "it.pth", torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"w": torch.ones(2)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert checkpoint.load(path)["w"].tolist() == [1, 1]


def test_legacy_truncated(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"state_dict": {"w": torch.arange(1000.0)}}, path, _use_new_zipfile_serialization=False)
    assert checkpoint.load(path)["state_dict"]["w"][999] == 999
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        checkpoint.load(path)


def test_load_url_reads_the_cache_safely_and_says_where_to_put_the_file(tmp_path):
    good = tmp_path / "r50.pth"
    checkpoint.save({"w": torch.ones(2)}, good)
    assert load_url("http://127.0.0.1:9/r50.pth", model_dir=str(tmp_path))["w"].sum() == 2
    _as_zip(Bomb(tmp_path / "marker"), tmp_path / "evil.pth")
    with pytest.raises(UserError, match="trust_checkpoints"):
        load_url("http://127.0.0.1:9/evil.pth", model_dir=str(tmp_path))
    assert not (tmp_path / "marker").exists()
    with pytest.raises(UserError, match="put it at .*absent.pth"):
        load_url("http://127.0.0.1:9/absent.pth", model_dir=str(tmp_path), progress=False)


class _Site(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    with http.server.HTTPServer(("127.0.0.1", 0), _Site) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/r50.pth"
        server.shutdown()


@pytest.mark.parametrize("kind", ["zip", "html", "cut", "tensor"])
def test_a_broken_download_is_not_kept(tmp_path, site, kind):
    file, cache = tmp_path / "made.pth", tmp_path / "cache"
    checkpoint.save({"w": torch.ones(2)}, file)
    good = file.read_bytes()
    if kind == "zip":
        _as_zip(Bomb(tmp_path / "marker"), file)
    elif kind == "tensor":
        torch.save(torch.ones(2), file)
    _Site.content = {"html": b"<!DOCTYPE html>", "cut": good[:-100]}.get(kind, file.read_bytes())
    says = {"zip": "trust_checkpoints", "html": "web page", "cut": "cannot be read", "tensor": "contains a Tensor"}[
        kind
    ]
    with pytest.raises(UserError, match=says) as caught:
        load_url(site, model_dir=str(cache), progress=False)
    assert site in str(caught.value) and "The download was not kept" in str(caught.value)
    assert not list(cache.iterdir()) and not (tmp_path / "marker").exists()
    _Site.content = good
    assert load_url(site, model_dir=str(cache), progress=False)["w"].sum() == 2
    assert [p.name for p in cache.iterdir()] == ["r50.pth"]


def test_a_broken_file_of_the_cache_says_how_to_get_another(tmp_path):
    (tmp_path / "r50.pth").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"r50\.pth cannot be read.*delete it to download it again"):
        load_url("http://127.0.0.1:9/r50.pth", model_dir=str(tmp_path))
