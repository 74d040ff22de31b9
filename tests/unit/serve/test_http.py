"""The server over HTTP: its answers equal the detector's, are not mixed up, and bad requests get one sentence."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from fcos_train.data.shapes import draw_image
from fcos_train.infer.detector import Detector
from tests.unit.serve.conftest import TOKEN

GROWTH = 60  # MB that the process may grow by after the first 40 of 200 requests


def encoded(seed: int, suffix: str = ".png", size: tuple[int, int] = (128, 96)) -> bytes:
    image, _, _ = draw_image(np.random.default_rng(seed), size)
    return cv2.imencode(suffix, image)[1].tobytes()


def expected(detector: Detector, content: bytes, score_thr: float, classes: tuple[str, ...] = ()) -> list[tuple]:
    found = detector(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    rows = []
    for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()):
        name = detector.classes[label]
        if score >= np.float32(score_thr) and (not classes or name in classes):
            rows.append((name, label + 1, score, [x1, y1, x2 - x1, y2 - y1]))
    return rows


def given(answer: dict) -> list[tuple]:
    return [(a["category_name"], a["category_id"], a["score"], a["bbox"]) for a in answer["annotations"]]


def test_answers_equal_the_detector(served, detector):
    content = encoded(1)
    with served.client() as client:
        raw = client.post("/predict", content=content)
        form = client.post("/predict", files={"file": ("one.png", content)}, params={"score_thr": 0.5})
        few = client.post("/predict", content=content, params={"score_thr": 0, "classes": ["circle", "cross"]})
    assert (raw.status_code, form.status_code, few.status_code) == (200, 200, 200)
    assert given(raw.json()) == expected(detector, content, 0.3)
    assert given(form.json()) == expected(detector, content, 0.5)
    assert given(few.json()) == expected(detector, content, 0, ("circle", "cross"))
    counts = [len(answer.json()["annotations"]) for answer in (raw, form, few)]
    assert counts[0] > counts[1] > 0 and counts[2] > 0  # the images do have objects
    assert form.json()["images"] == [{"id": 1, "file_name": "one.png", "width": 128, "height": 96}]
    names = ["circle", "square", "triangle", "cross"]
    assert form.json()["categories"] == [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    one = form.json()["annotations"][0]
    assert one["area"] == one["bbox"][2] * one["bbox"][3] and (one["id"], one["image_id"], one["iscrowd"]) == (1, 1, 0)


def test_200_requests_of_8_clients(served, detector):
    contents = [encoded(seed) for seed in range(12)]
    wanted = [expected(detector, content, 0.3) for content in contents]
    assert len({str(rows) for rows in wanted}) == len(contents)  # an answer tells which image it belongs to
    wrong, memory = [], []

    def ask(number: int) -> None:
        with served.client() as client:
            for step in range(25):
                which = (7 * number + step) % len(contents)
                answer = client.post("/predict", content=contents[which])
                if answer.status_code != 200 or given(answer.json()) != wanted[which]:
                    wrong.append((number, step, answer.text[:200]))
                memory.append(served.resident())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert wrong == [] and len(memory) == 200
    assert max(memory) - memory[40] < GROWTH, (memory[0], memory[40], max(memory))
    with served.client() as client:
        assert client.get("/health").json()["waiting"] == 0


def bomb(width: int, height: int) -> bytes:
    """A PNG file of some hundred bytes that states this size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 9000))]
    parts = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


IMAGE = encoded(1)
NOISE = np.random.default_rng(0).integers(0, 256, 1_200_000, np.uint8).tobytes()
BAD = {
    "nothing": (dict(content=b""), 400, "empty (0 bytes)"),
    "text": (dict(content=b"a picture of a cat"), 415, "not an image"),
    "HTML": (dict(content=b"<!doctype html><html></html>"), 415, "an HTML page"),
    "JSON": (dict(json={"image": "cat.jpg"}), 415, "a JSON file"),
    "SVG": (dict(content=b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "an SVG drawing"),
    "a PDF file": (dict(content=b"%PDF-1.7\n" + bytes(200)), 415, "not an image"),
    "zeros": (dict(content=bytes(5000)), 415, "a file of zeros"),
    "random bytes": (dict(content=NOISE[:5000]), 415, "not an image"),
    "a signature alone": (dict(content=b"\x89PNG\r\n\x1a\n"), 415, "not an image"),
    "a cut off PNG": (dict(content=IMAGE[:60]), 400, "damaged or incomplete"),
    "a JPEG header alone": (dict(content=encoded(1, ".jpg")[:180]), (400, 415), "image"),
    "a decompression bomb": (dict(content=bomb(60000, 60000)), 413, "60000 x 60000 pixels"),
    "a wide image": (dict(content=bomb(2_000_001, 1)), 413, "2000001 x 1 pixels; the limit is 2 million"),
    "no pixels": (dict(content=bomb(0, 5)), (400, 415), "image"),
    "too many bytes": (dict(content=IMAGE + NOISE[:1_000_000]), 413, "limit of 1 MB"),
    "far too many bytes": (dict(content=IMAGE + NOISE), 413, "limit of 1 MB"),
    "chunks without a length": (dict(content=iter([NOISE, NOISE])), 413, "limit of 1 MB"),
    "a large form": (dict(files={"file": ("a.png", NOISE)}), 413, "limit of 1 MB"),
    "a form without a file": (dict(data={"file": "cat.jpg"}, files={}), (400, 415), "not an image"),
    "a form with another field": (dict(files={"note": (None, "hello")}), 400, "no files"),
    "a form with two files": (dict(files=[("file", IMAGE), ("file", IMAGE)]), 400, "2 files"),
    "a form without boundary": (
        dict(content=b"--x\r\n", headers={"Content-Type": "multipart/form-data"}), 400, "oundary",
    ),
    "an empty file of a form": (dict(files={"file": ("a.png", b"")}), 400, "empty (0 bytes)"),
    "a threshold of text": (dict(content=IMAGE, params={"score_thr": "high"}), 422, "score_thr"),
    "a threshold above 1": (dict(content=IMAGE, params={"score_thr": "1.5"}), 422, "score_thr"),
    "NaN as threshold": (dict(content=IMAGE, params={"score_thr": "nan"}), 422, "score_thr"),
    "an unknown class": (dict(content=IMAGE, params={"classes": "zebra"}), 422, "no class zebra; the model"),
}  # fmt: skip


def test_bad_uploads(served):
    """Each gets its status and one sentence; afterwards the server answers as before."""
    assert len(BAD) >= 20
    faults = []
    with served.client() as client:
        for name, (request, status, text) in BAD.items():
            answer = client.post("/predict", **request)
            detail = answer.json().get("detail")
            if answer.status_code not in np.atleast_1d(status) or text not in detail or "Traceback" in answer.text:
                faults.append((name, answer.status_code, answer.text[:300]))
            if "\n" in detail or not detail.endswith("."):
                faults.append((name, "no sentence", detail))
        assert client.post("/predict", content=IMAGE).status_code == 200
    assert faults == []
    assert not [line for line in served.lines if "Traceback" in line]


def test_other_addresses_and_methods(served):
    with served.client() as client:
        assert client.get("/predict").status_code == 405
        assert client.get("/predict").json() == {"detail": "/predict does not take GET."}
        assert client.get("/nowhere").json() == {"detail": "There is no /nowhere; /docs lists what there is."}
        health = client.get("/health").json()
        assert (health["status"], health["model"], len(health["classes"])) == ("ok", "tiny.pth", 4)
        paths = client.get("/openapi.json").json()["paths"]
        assert set(paths) == {"/predict", "/health"}
        body = paths["/predict"]["post"]["requestBody"]["content"]
        assert set(body) == {"multipart/form-data", "application/octet-stream"}
        docs = client.get("/docs").text
        assert "swagger-ui" in docs and "https://" not in docs
        files = [part.split('"')[0] for part in docs.split("/static-offline-docs/")[1:]]
        assert files and all(client.get(f"/static-offline-docs/{name}").status_code == 200 for name in files)


def test_without_the_token(served):
    with served.client() as client:
        client.headers.pop("Authorization")
        for path in ("/", "/page/", "/predict", "/docs", "/health", "/page/gradio_api/upload", "/page/gradio_api/info"):
            answer = client.request("POST" if path in ("/predict", "/page/gradio_api/upload") else "GET", path)
            assert answer.status_code == 401 and "Authorization: Bearer TOKEN" in answer.json()["detail"], path
        assert client.get("/health", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/health", params={"token": "wrong"}).status_code == 401
        assert client.post("/predict", params={"token": TOKEN}, content=IMAGE).status_code == 200
        page = client.get("/", headers={"Accept": "text/html"})
        assert page.status_code == 401 and '<input name="token"' in page.text
        moved = client.get("/", params={"token": TOKEN, "view": "1"})
        assert (moved.status_code, moved.headers["location"]) == (303, "/?view=1")
        assert "HttpOnly" in moved.headers["set-cookie"] and "SameSite=strict" in moved.headers["set-cookie"]
        assert client.get("/health").status_code == 200  # by the cookie
