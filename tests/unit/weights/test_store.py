"""From weights to a file: folder, cache, mirrors of the environment."""

import hashlib

import pytest

from fcos_train.weights import Weights, fetch, places, present
from fcos_train.weights.places import VARIABLE, addresses, folder_of_weights
from mmcv_overrides.errors import UserError
from tests.support.file_server import Files, serving

BODY = b"weights" * 100
DIGEST = hashlib.sha256(BODY).hexdigest()[:8]
FILE = f"net-{DIGEST}.pth"
ORIGINAL = f"https://download.openmmlab.com/v2.0/net/{FILE}"
FORK = f"https://mmassets.onedl.ai/v2.0/net/{FILE}"
NET = Weights("net", ORIGINAL, data="COCO")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A download cache of the test's own, and nothing in the environment."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in (VARIABLE, "HF_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, []),
        ({VARIABLE: "/data/weights"}, []),
        ({VARIABLE: "https://m.example/w/"}, [f"https://m.example/w/v2.0/net/{FILE}", f"https://m.example/w/{FILE}"]),
        ({VARIABLE: "hf://me/weights"}, [f"https://huggingface.co/me/weights/resolve/main/{FILE}"]),
        (
            {VARIABLE: "hf://me/weights", "HF_ENDPOINT": "https://hub.example/"},
            [f"https://hub.example/me/weights/resolve/main/{FILE}"],
        ),
        ({VARIABLE: "modelscope://me/w"}, [f"https://www.modelscope.cn/models/me/w/resolve/master/{FILE}"]),
        (
            {VARIABLE: "modelscope://me/w", "MODELSCOPE_DOMAIN": "scope.example"},
            [f"https://scope.example/models/me/w/resolve/master/{FILE}"],
        ),
        ({"HF_ENDPOINT": "https://hub.example"}, []),  # names no repository
    ],
)
def test_the_order_of_addresses(environment, first):
    assert addresses(NET, environment) == [*first, ORIGINAL, FORK]


def test_files_of_other_hosts_have_no_mirror():
    assert addresses(Weights("x", "https://github.com/a/x.pth"), {}) == ["https://github.com/a/x.pth"]


@pytest.mark.parametrize("value", ["hf://me", "ftp://host/w", "modelscope://a/b/c", "http://"])
def test_other_forms_are_refused(value):
    with pytest.raises(UserError, match=f"{VARIABLE}=.*: give a folder, https://HOST, hf://OWNER/NAME"):
        addresses(NET, {VARIABLE: value})


def test_a_folder_that_does_not_exist():
    with pytest.raises(UserError, match="there is no such folder"):
        folder_of_weights({VARIABLE: "/nowhere/weights"})


def test_a_closed_network(tmp_path, monkeypatch, home):
    """The folder is all there is: its file is checked, and nothing is downloaded."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    lines: list[str] = []
    with pytest.raises(UserError, match=rf"{VARIABLE}={tmp_path} has no {FILE} .*nothing is downloaded. .*{ORIGINAL}"):
        fetch(NET, lines.append)
    (tmp_path / FILE).write_bytes(BODY)
    assert fetch(NET, lines.append) == tmp_path / FILE
    assert lines == [f"weights net: {tmp_path / FILE}", NET.licence]
    (tmp_path / FILE).write_bytes(BODY[1:])
    with pytest.raises(UserError, match=f"{tmp_path / FILE}: its SHA-256 does not begin with {DIGEST}"):
        fetch(NET, lines.append)
    assert not home.exists()


def test_a_mirror_and_then_the_cache(monkeypatch, home):
    lines: list[str] = []
    with serving(Files({f"/{FILE}": BODY})) as server:
        monkeypatch.setenv(VARIABLE, server.url)
        assert present(NET) is None
        assert fetch(NET, lines.append) == home / FILE == present(NET)
        assert server.paths == [f"/v2.0/net/{FILE}", f"/{FILE}"]
        assert (home / FILE).read_bytes() == BODY
        assert lines[1] == f"weights net: {home / FILE}, from {server.url}/{FILE} (SHA-256 begins with {DIGEST})"
        assert lines[2] == NET.licence
        fetch(NET, lines.append)
        assert len(server.paths) == 2 and lines[3] == f"weights net: {home / FILE}"


def test_a_damaged_file_of_the_cache_is_downloaded_again(monkeypatch, home):
    home.mkdir(parents=True)
    (home / FILE).write_bytes(b"damaged")
    lines: list[str] = []
    with serving(Files({f"/me/w/resolve/main/{FILE}": BODY})) as server:
        monkeypatch.setenv(VARIABLE, "hf://me/w")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        fetch(NET, lines.append)
    assert (home / FILE).read_bytes() == BODY
    assert lines[0] == f"{home / FILE} is damaged (its SHA-256 does not begin with {DIGEST}): it is downloaded again"


def test_without_a_network(monkeypatch, home):
    monkeypatch.setattr(places, "ORIGINAL", "http://127.0.0.1:9/")
    monkeypatch.setattr(places, "FORK", "http://127.0.0.1:11/")
    with pytest.raises(UserError) as error:
        fetch(Weights("net", f"http://127.0.0.1:9/{FILE}"), lambda line: None)
    message = str(error.value)
    assert message.startswith(f"cannot download {FILE}: 127.0.0.1:9: ") and "; 127.0.0.1:11: " in message
    assert f"put it into {home}" in message and f"{VARIABLE}=DIR" in message
    assert not (home / FILE).exists()
