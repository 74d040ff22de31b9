"""Images of a local server: what arrives, the limits, and what is said when nothing does."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from fcos_train.data.images import UnreadableImage
from fcos_train.infer import web
from fcos_train.infer.sources import Pictures, Video, open_source
from mmcv_overrides.errors import UserError
from tests.support.special_files import bomb
from tests.support.spots import SpotDetector, spots
from tests.unit.infer.test_predict import files, make_video, run

IMAGE = cv2.imencode(".png", spots(100, 80, (10, 20, 40, 60, 128)))[1].tobytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server whose paths name what it does."""
    folder = tmp_path_factory.mktemp("served")
    served = {
        "bomb.png": bomb(folder / "bomb.png").read_bytes(),
        "clip.avi": make_video(folder / "clip.avi").read_bytes(),
    }

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, data, code=200, **headers):
            self.send_response(code)
            for name, value in ({"Content_Length": len(data)} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            what = self.path.partition("?")[0].lstrip("/")
            if what in served:
                self.answer(served[what])
            elif what == "moved.png":
                self.answer(b"", 302, Location="/dog%20one.png")
            elif what == "loop.png":
                self.answer(b"", 302, Location="/loop.png")
            elif what == "local.png":
                self.answer(b"", 302, Location="file:///etc/hosts")
            elif what == "page.png":
                self.answer(b"<!DOCTYPE html><html><body>login</body></html>")
            elif what == "cut.png":
                self.answer(IMAGE[:50], **{"Content_Length": len(IMAGE)})
            elif what == "says-large.png":
                self.answer(b"", **{"Content_Length": 10**12})
            elif what == "endless.png":
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(b"x" * 65536)
            elif what == "private.png" and self.headers.get("Authorization") is None:
                self.answer(b"", 401)
            elif what in ("dog%20one.png", "private.png", "dog.png"):
                self.answer(IMAGE)
            else:
                self.answer(b"", 404)

        def handle(self):
            with contextlib.suppress(ConnectionError):  # the client has had enough of endless.png
                super().handle()

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_an_image_arrives(server):
    for name in ("dog.png", "moved.png", "dog.png?size=1"):
        assert SpotDetector()(f"{server}/{name}").boxes.tolist() == [[10, 20, 40, 60]]
    assert isinstance(open_source(f"{server}/dog.png"), Pictures)
    private = f"{server}/private.png".replace("//", "//me:secret@")
    frame = next(iter(open_source(private)))
    assert frame.name == f"{server}/private.png" and frame.file_name == "private.png"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.png", "the server answers 404 Not Found"),
        ("private.png", "the server answers 401 Unauthorized"),
        ("page.png", "it cannot be decoded: it is an HTML page"),
        ("cut.png", "no connection, or it broke off"),
        ("says-large.png", "it is larger than 64 MiB"),
        ("endless.png", "it is larger than 64 MiB"),
        ("loop.png", "more than 5 redirections"),
        ("local.png", "the address is not valid"),
        ("bomb.png", "its 30000 x 30000 pixels are more than the limit"),
    ],
)
def test_what_is_refused(server, name, reason):
    with pytest.raises(UnreadableImage, match=f"^cannot read image {server}/{name}: {reason}") as caught:
        SpotDetector()(f"{server}/{name}")
    assert "\n" not in str(caught.value)


def test_time_and_connection(server, monkeypatch):
    monkeypatch.setattr(web, "SECONDS", -1)
    with pytest.raises(UnreadableImage, match="it takes longer than -1 seconds"):
        web.fetch_image(f"{server}/dog.png")
    with pytest.raises(UnreadableImage, match="no connection, or it broke off"):
        web.fetch_image("http://127.0.0.1:1/dog.png")
    for address in ("http://", "http://[::1/x.png", "http://127.0.0.1:99999/x.png"):
        with pytest.raises(UserError, match="the address is not valid"):
            web.fetch_image(address)


def test_names_of_files():
    for address, name in (
        ("http://host/a/dog.png?x=1#y", "dog.png"),
        ("http://host/a%2F..%2Fdog.png", "a_.._dog.png"),
        ("http://host/", "host"),
        ("rtsp://me:pw@camera:554/stream1", "stream1"),
        ("http://host/..", "image"),
    ):
        assert web.file_name(address) == name
    assert web.shown("rtsp://me:p@w@camera/x@y") == "rtsp://camera/x@y"


def test_predict_with_addresses(server, tmp_path):
    """An image that does not come is named at the end; a video is read as it comes."""
    with pytest.raises(UserError, match=f"^1 image was skipped: cannot read image {server}/none.png: .* 404"):
        run(tmp_path, f"{server}/none.png", f"{server}/dog.png", save=("json", "yolo"))
    data = json.loads((tmp_path / "out/predictions.json").read_text())
    image = {"id": 1, "file_name": "dog.png", "width": 100, "height": 80, "coco_url": f"{server}/dog.png"}
    assert data["images"] == [image] and len(data["annotations"]) == 1
    assert files(tmp_path / "out") == ["data.yaml", "labels/dog.txt", "predictions.json"]
    source = open_source(f"{server}/clip.avi")
    assert isinstance(source, Video) and source.file_name == "clip.avi"
    frames = [frame.image for frame in source]
    assert len(frames) == 4 and np.abs(frames[0][40, 20].astype(int) - 128).max() < 8
