"""The gate without a token, limits of videos, ports and options: each rule by itself."""

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.generate import command
from fcos_train.cli.serve import run
from fcos_train.data.coco_names import COCO_NAMES
from fcos_train.infer.detector import Detections
from fcos_train.serve.answer import Answer, document
from fcos_train.serve.limits import Clip, Limits, Refused
from fcos_train.serve.options import ServeOptions, is_local
from fcos_train.serve.server import FIRST_PORT, listen, make_app, open_model
from fcos_train.serve.service import MOST_WAITING, Service
from mmcv_overrides.errors import UserError

LIMITS = Limits(megabytes=1, megapixels=2, seconds=2)


@pytest.fixture
def gate():
    httpx = pytest.importorskip("httpx", reason="needs the extra [web]")
    from starlette.responses import PlainTextResponse

    from fcos_train.serve.gate import Gate

    async def behind(scope, receive, send):
        await PlainTextResponse("passed")(scope, receive, send)

    def ask(method="GET", path="/", host="127.0.0.1:7860", token=None, **headers) -> tuple[int, str]:
        import anyio

        async def one():
            transport = httpx.ASGITransport(Gate(behind, token, LIMITS))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.request(method, path, headers=headers)

        answer = anyio.run(one)
        return answer.status_code, answer.text

    return ask


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "127.0.0.2"])
def test_own_addresses_pass(gate, host):
    assert gate(host=host) == (200, "passed")
    assert gate("POST", host=host, origin=f"http://{host}") == (200, "passed")


@pytest.mark.parametrize("host", ["attacker.example:7860", "127.0.0.1.attacker.example", "192.168.1.5", "0.0.0.0"])
def test_other_names_are_refused_without_a_token(gate, host):
    """A name of another site that resolves to 127.0.0.1."""
    status, text = gate(host=host)
    assert status == 403 and "answers to 127.0.0.1 and localhost only" in text


@pytest.mark.parametrize("origin", ["http://attacker.example", "http://127.0.0.1:9999", "null"])
def test_requests_of_other_pages_are_refused_without_a_token(gate, origin):
    status, text = gate("POST", origin=origin)
    assert status == 403 and "pages of other sites" in text
    assert gate("GET", origin=origin) == (200, "passed")


def test_with_a_token_any_name_passes(gate):
    token = "word-of-the-day"
    assert gate(host="demo.example", token=token, authorization=f"Bearer {token}") == (200, "passed")
    assert gate(host="demo.example", token=token)[0] == 401
    assert gate(host="demo.example", token=token, authorization="Bearer wörd".encode())[0] == 401
    assert gate(host="demo.example", token=token, cookie='a="\x01; fcos')[0] == 401


def video(path: Path, frames: int, size: tuple[int, int] = (64, 48), fps: float = 10) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for number in range(frames):
        writer.write(np.full((*size[::-1], 3), 10 * number % 256, np.uint8))
    writer.release()
    return path


def test_videos_within_the_limits(tmp_path):
    clip = Clip(str(video(tmp_path / "a.avi", 20)), LIMITS)
    assert (clip.fps, clip.size, clip.frames) == (10.0, (64, 48), 20)
    assert [int(frame.mean().round(-1)) for frame in clip][:4] == [0, 10, 20, 30]


def test_videos_beyond_the_limits(tmp_path):
    def refusal(path: Path, limits: Limits = LIMITS) -> tuple[int, str]:
        with pytest.raises(Refused) as caught:
            list(Clip(str(path), limits))
        return caught.value.status, str(caught.value)

    long = video(tmp_path / "long.avi", 21)
    assert refusal(long) == (413, "The video is longer than 2 s (--max-video); cut it, and send a part.")
    wide = video(tmp_path / "wide.avi", 1, (2048, 1024))
    assert refusal(wide)[0] == 413 and "2048 x 1024 pixels" in refusal(wide)[1]
    (tmp_path / "list.mp4").write_text("#EXTM3U\nhttp://192.0.2.1/a.ts\n")
    assert refusal(tmp_path / "list.mp4")[0] == 415
    (tmp_path / "cut.avi").write_bytes(long.read_bytes()[:100])
    assert refusal(tmp_path / "cut.avi")[0] == 400
    # 2 frames by the header, 21 in the file
    content = bytearray(long.read_bytes())
    struct.pack_into("<I", content, content.find(b"avih") + 8 + 16, 2)
    struct.pack_into("<I", content, content.find(b"strh") + 8 + 32, 2)
    (tmp_path / "liar.avi").write_bytes(content)
    assert refusal(tmp_path / "liar.avi")[0] == 413


def test_ports():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^cannot listen on 127.0.0.1 port {port}: Address already in use$"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert FIRST_PORT <= first.getsockname()[1] < second.getsockname()[1]
    with pytest.raises(UserError, match="^cannot listen on 192.0.2.1 port 0: Cannot assign requested address$"):
        listen("192.0.2.1", 0)
    with pytest.raises(UserError, match="^--host no.such.invalid: "):
        listen("no.such.invalid", 0)


def test_options(checkpoint):
    verb = command(run, "fcos-train serve")
    options = verb.parse([str(checkpoint), "--host", "0.0.0.0", "--token", "a-long-word", "--max-video", "5"]).settled()
    assert (options.host, options.port, options.token, options.max_video) == ("0.0.0.0", None, "a-long-word", 5)
    for words, text in (
        (["--token", "short"], "8 to 128 letters"),
        (["--port", "70000"], "between 0 and 65535"),
        (["--max-upload", "0"], "--max-upload 0: must be between 1 and 4096"),
        (["--score-thr", "1.5"], "--score-thr 1.5: must be between 0 and 1"),
    ):
        with pytest.raises(UserError, match=text):
            verb.parse([str(checkpoint), *words])
    assert [is_local(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "0.0.0.0", "::", "10.0.0.1", "")] == [
        True, True, True, True, False, False, False, False,
    ]  # fmt: skip
    (checkpoint.parent / "model.onnx").touch()
    with pytest.raises(UserError, match="^--config applies to checkpoints; .*model.onnx is an exported model"):
        open_model(ServeOptions(str(checkpoint.parent / "model.onnx"), config="a.py"))


def test_numbers_of_coco_classes():
    found = Detections(np.float32([[1, 2, 4, 8]]), np.float32([0.5]), np.int64([79]))
    answer = Answer(10, 20, found, 0.25)
    (one,) = document([("a.jpg", answer, found)], COCO_NAMES)["annotations"]
    assert (one["category_id"], one["category_name"], one["bbox"], one["area"]) == (90, "toothbrush", [1, 2, 3, 6], 18)
    unnamed = document([("a.jpg", answer, found)], ())
    assert unnamed["categories"] == [{"id": 80, "name": "class 79"}]
    assert unnamed["images"] == [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 20}]


class Fake:
    classes, device_reason, notices = ("a",), "none", ()

    def __call__(self, image):
        """The first call, which warms up."""


def test_places_in_the_queue():
    service = Service("fake", Fake, LIMITS)
    places = [service.place() for _ in range(MOST_WAITING + 1)]
    for place in places[:-1]:
        place.__enter__()
    with pytest.raises(Refused, match="^The server is busy: 16 requests wait already") as caught, places[-1]:
        pass
    assert caught.value.status == 503 and service.waiting == MOST_WAITING
    places[0].__exit__(None, None, None)
    with service.place():
        assert service.waiting == MOST_WAITING
    service.close()


def test_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    service = Service("fake", Fake, LIMITS)
    with pytest.raises(UserError, match=r"the web demo needs more packages: pip install 'fcos-train\[web\]'$"):
        make_app(service, None, 0.3)
    service.close()
