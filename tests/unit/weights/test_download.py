"""Downloads from a server on this machine: complete, broken off, damaged, out of reach."""

import hashlib
import threading

import pytest

from fcos_train.weights.download import download, right_content
from mmcv_overrides.errors import UserError
from tests.support.file_server import Files, serving

BODY = bytes(range(256)) * 40  # 10,240 bytes
DIGEST = hashlib.sha256(BODY).hexdigest()[:8]
NOWHERE = "http://127.0.0.1:9/w.pth"


@pytest.fixture
def server():
    with serving(Files({"/w.pth": BODY})) as files:
        yield files


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_complete_file(server, tmp_path):
    file = tmp_path / "new" / "w.pth"
    assert download(file, [f"{server.url}/w.pth"], DIGEST) == f"{server.url}/w.pth"
    assert file.read_bytes() == BODY and names(file.parent) == ["w.pth"]
    assert server.asked == [("/w.pth", None)]


def test_a_connection_that_breaks_is_continued_where_it_ended(server, tmp_path):
    server.breaks = [1000, 2000]
    download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert (tmp_path / "w.pth").read_bytes() == BODY and names(tmp_path) == ["w.pth"]
    assert [span for _, span in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_a_download_that_fails_leaves_no_file_and_the_next_start_continues(server, tmp_path):
    server.breaks = [1000, 0, 0]
    with pytest.raises(
        UserError, match=r"cannot download w.pth: 127.0.0.1:\d+: the connection ended after 1000 of 10240"
    ):
        download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert names(tmp_path) == [".w.pth.part"] and (tmp_path / ".w.pth.part").read_bytes() == BODY[:1000]
    server.breaks, server.asked[:] = [], []
    download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert server.asked == [("/w.pth", "bytes=1000-")]
    assert (tmp_path / "w.pth").read_bytes() == BODY and names(tmp_path) == ["w.pth"]


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    server.breaks, server.ranges = [1000], False
    download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_part_that_is_already_complete(server, tmp_path):
    (tmp_path / ".w.pth.part").write_bytes(BODY)
    download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert (tmp_path / "w.pth").read_bytes() == BODY and server.asked == [("/w.pth", "bytes=10240-")]


def test_another_content_is_not_kept(server, tmp_path):
    server.content["/w.pth"] = BODY[::-1]
    with pytest.raises(UserError, match=f"its SHA-256 does not begin with {DIGEST}: .* it was not kept"):
        download(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)
    assert names(tmp_path) == []


def test_the_next_address_is_tried(server, tmp_path):
    server.content |= {"/damaged/w.pth": b"x" * 10_240}
    tried = [NOWHERE, f"{server.url}/missing/w.pth", f"{server.url}/damaged/w.pth", f"{server.url}/w.pth"]
    assert download(tmp_path / "w.pth", tried, DIGEST) == f"{server.url}/w.pth"
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert server.paths == ["/missing/w.pth", "/damaged/w.pth", "/w.pth"]


def test_without_a_network_each_address_has_its_reason(tmp_path):
    with pytest.raises(UserError) as error:
        download(tmp_path / "w.pth", [NOWHERE, "http://host.invalid/w.pth"], DIGEST)
    assert str(error.value).startswith(
        "cannot download w.pth: 127.0.0.1:9: [Errno 111] Connection refused; host.invalid: "
    )
    assert names(tmp_path) == []


def test_without_a_digest_a_part_of_another_file_is_not_continued(server, tmp_path):
    (tmp_path / ".w.pth.part").write_bytes(b"of another file")
    download(tmp_path / "w.pth", [f"{server.url}/w.pth"], None)
    assert (tmp_path / "w.pth").read_bytes() == BODY and server.asked == [("/w.pth", None)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<!DOCTYPE html><p>log in first", "it is a web page or a message of the server"),
        (b'{"error": "not found"}', "it is a web page or a message of the server"),
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(500), "the end of the file is missing"),
    ],
)
def test_without_a_digest_what_is_no_file_of_weights_is_not_kept(body, says, tmp_path):
    with serving(Files({"/w.pth": body})) as server, pytest.raises(UserError, match=says):
        download(tmp_path / "w.pth", [f"{server.url}/w.pth"], None)
    assert names(tmp_path) == []


def test_without_a_digest_a_connection_that_breaks_leaves_nothing(server, tmp_path):
    server.breaks = [1000, 0, 0]
    with pytest.raises(UserError, match="the connection ended after 1000 of 10240"):
        download(tmp_path / "w.pth", [f"{server.url}/w.pth"], None)
    assert names(tmp_path) == []


def test_several_processes_download_once(server, tmp_path):
    threads = [
        threading.Thread(target=download, args=(tmp_path / "w.pth", [f"{server.url}/w.pth"], DIGEST)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and (tmp_path / "w.pth").read_bytes() == BODY


def test_the_content_of_a_file(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert right_content(tmp_path / "w", "ba7816bf") and right_content(tmp_path / "w", None)  # FIPS 180-4, "abc"
    assert not right_content(tmp_path / "w", "ba7816be")
