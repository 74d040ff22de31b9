"""The page in a real browser: an image in, boxes out; the threshold draws again; JSON equals the detector's answer."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from tests.unit.serve.conftest import TOKEN
from tests.unit.serve.test_http import bomb, encoded, expected, given

BROWSER = os.environ.get("CHROMIUM", "/usr/bin/chromium-headless-shell")
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
WAIT = 180_000  # ms; a machine may be busy


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not Path(BROWSER).exists():
        pytest.skip(f"needs {BROWSER}: apt install chromium-headless-shell")
    with playwright.sync_playwright() as player:
        running = player.chromium.launch(executable_path=BROWSER, args=[*FAKE_CAMERA, "--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(served, browser):
    """A tab with the page; every address that it asks for is recorded."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1100})
    tab.set_default_timeout(WAIT)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(f"{served.base}/?token={TOKEN}")
    tab.wait_for_selector("#image input[type=file]", state="attached")
    yield tab
    hosts = {urlsplit(url).netloc for url in tab.asked} - {""}  # "": data: and blob:
    tab.close()
    assert hosts == {urlsplit(served.base).netloc}


def upload(page, name: str, content: bytes, kind: str = "image/png", place: str = "image") -> None:
    page.set_input_files(f"#{place} input[type=file]", {"name": name, "mimeType": kind, "buffer": content})


def objects(page, count: int) -> None:
    """Wait until the line says that so many objects are shown."""
    page.wait_for_function(
        "n => new RegExp(`^${n}( of [0-9]+)? objects`).test(document.querySelector('#image-line').innerText.trim())",
        arg=count,
    )


def answered(served) -> int:
    with served.client() as client:
        return client.get("/health").json()["answered"]


def test_image_threshold_classes_and_json(served, detector, page):
    content = encoded(1)
    before = answered(served)
    upload(page, "shapes.png", content)
    objects(page, len(expected(detector, content, 0.3)))
    assert re.search(r" ms . 128 . 96 pixels", page.inner_text("#image-line"))
    picture = page.get_attribute("#picture img", "src")
    assert picture.startswith("data:image/jpeg;base64,")
    slider = page.locator("#threshold input[type=range]")
    for key, score_thr in (("End", 1.0), ("Home", 0.0)):
        slider.press(key)
        objects(page, len(expected(detector, content, score_thr)))
    page.locator("#threshold input[type=number]").fill("0.7")
    page.locator("#threshold input[type=number]").press("Tab")
    objects(page, len(expected(detector, content, 0.7)))
    assert 0 < len(expected(detector, content, 0.7)) < len(expected(detector, content, 0.3))
    assert page.get_attribute("#picture img", "src") != picture  # drawn again
    slider.press("Home")
    everything = expected(detector, content, 0.0)
    objects(page, len(everything))
    rarest = Counter(name for name, *_ in everything).most_common()[-1][0]
    wanted = expected(detector, content, 0.0, (rarest,))
    assert 0 < len(wanted) < len(everything)
    page.locator("#classes input").click()
    page.get_by_role("option", name=rarest).click()
    objects(page, len(wanted))
    with page.expect_download() as saved:
        page.click("#image-download")
    assert saved.value.suggested_filename == "detections.json"
    assert given(json.loads(Path(saved.value.path()).read_text())) == wanted
    assert answered(served) == before + 1  # the model ran once


def test_refused_uploads(served, page):
    """The page says in a sentence what is wrong."""
    for content, text in ((bomb(60000, 60000), "60000 x 60000 pixels"), (b"no image", "not an image")):
        upload(page, "a.png", content)
        page.get_by_text(text).first.wait_for()
        page.reload()
        page.wait_for_selector("#image input[type=file]", state="attached")
    page.get_by_role("tab", name="Video").click()
    upload(page, "a.mp4", b"#EXTM3U\nhttp://192.0.2.1/a.ts\n", "video/mp4", "video")
    page.click("#go")
    page.get_by_text("not a video that is read here").first.wait_for()
    assert not [line for line in served.lines if "Traceback" in line]


def test_video(served, tmp_path, page):
    """Its frames are detected once; a browser plays the result."""
    path = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 96))
    for seed in range(4):
        writer.write(cv2.imdecode(np.frombuffer(encoded(seed), np.uint8), cv2.IMREAD_COLOR))
    writer.release()
    before = answered(served)
    page.get_by_role("tab", name="Video").click()
    upload(page, "in.avi", path.read_bytes(), "video/x-msvideo", "video")
    page.wait_for_timeout(300)
    page.click("#go")
    page.wait_for_function("/objects in 4 frames/.test(document.querySelector('#video-line').innerText)")
    played = page.wait_for_function(
        "() => { const v = document.querySelector('#played video'); return v && v.readyState > 1 && v.videoWidth }"
    )
    assert played.json_value() == 128
    assert answered(served) == before + 4


def test_camera(served, page):
    before = answered(served)
    page.get_by_role("tab", name="Camera").click()
    page.locator("#camera button", has_text="Webcam").click()
    page.locator("#camera button", has_text="Record").click()
    page.wait_for_selector("#live img[src^='data:image/jpeg']", state="attached")
    assert answered(served) > before
