"""The web page: an image, a camera or a video in; boxes, a table and JSON out."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from fcos_train.serve.answer import Answer, chosen, document, labels_of
from fcos_train.serve.components import refusals_shown, shown_image, uploaded_image, uploaded_video
from fcos_train.serve.limits import Clip, Refused
from fcos_train.serve.picture import line, rows, shown
from fcos_train.serve.service import Service
from fcos_train.serve.video import DetectedVideo

COLUMNS = ["class", "score", "x", "y", "width", "height"]
SESSIONS = 50  # whose last image is kept on the server; older ones detect again
CLEANING = (60, 1800)  # s between two looks for uploads, s until they are deleted
SECONDS_PER_LINE = 0.5
HEIGHT = 420  # px, of the pictures
DOWNLOAD = """(data) => {
  if (!data) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], {type: "application/json"}));
  link.download = "detections.json";
  link.click();
  URL.revokeObjectURL(link.href);
}"""
CSS = """
.gradio-container { max-width: 1200px !important; margin: auto !important; }
.gradio-container main { width: 100% !important; }
#head h1 { margin: 0; font-size: 1.5rem; } #head p { margin: 0.2rem 0 0; opacity: 0.75; }
"""


def build_page(service: Service, score_thr: float) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page of a model.

    Args:
        score_thr: where the slider is at the start.

    Returns:
        the page, and the arguments of its look for the function that mounts it.
    """
    page = _Page(service)
    fonts: dict[str, Any] = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }  # the machine's own
    theme = gr.themes.Soft(primary_hue="blue", secondary_hue="blue", **fonts)
    with gr.Blocks(title="FCOS-Train", analytics_enabled=False, delete_cache=CLEANING) as blocks:
        gr.HTML(page.head(), elem_id="head")
        with gr.Row():
            threshold = gr.Slider(0, 1, score_thr, step=0.01, label="Score threshold", elem_id="threshold")
            classes = gr.Dropdown(
                list(service.classes),
                multiselect=True,
                label="Classes (none chosen: all)",
                elem_id="classes",
                interactive=True,
                visible=bool(service.classes),
            )
        with gr.Tab("Image"):
            page.image_tab([threshold, classes])
        with gr.Tab("Camera"):
            page.camera_tab([threshold, classes])
        with gr.Tab("Video"):
            page.video_tab([threshold, classes])
    blocks.queue(max_size=32, api_open=False, default_concurrency_limit=8)
    blocks.state_session_capacity = SESSIONS
    return blocks, {"theme": theme, "css": CSS}


class _Page:
    """What happens on the page; the functions are called in threads, side by side."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def head(self) -> str:
        """Name of the model, and where it runs."""
        service = self.service
        texts = [
            service.name,
            f"{len(service.classes)} classes" if service.classes else "",
            service.device.partition(" (")[0],
        ]
        return f"<h1>FCOS-Train</h1><p>{html.escape(' · '.join(filter(None, texts)))}</p>"

    def image_tab(self, settings: list[gr.components.Component]) -> None:
        """One image; what the model found is kept, so that the settings only draw it again."""
        kept = gr.State()
        with gr.Row():
            sources = ["upload", "clipboard", "webcam"]
            given = uploaded_image(label="Image", sources=sources, elem_id="image", height=HEIGHT)
            picture = shown_image(elem_id="picture", height=HEIGHT, buttons=["fullscreen"])
        text, save = _line("Upload or paste an image, or take one with the camera.", "image")
        table = gr.Dataframe(
            headers=COLUMNS,
            datatype=["str", "number", "number", "number", "number", "number"],
            interactive=False,
            show_label=False,
            max_height=300,
            elem_id="table",
            buttons=[],
        )
        data = _json("image", save)
        results: list[Any] = [picture, text, table, data]
        own: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        given.change(self.detect, [given, *settings], [kept, *results], **own)
        for setting, event in zip(settings, ("input", "change")):
            getattr(setting, event)(
                self.redraw,
                [kept, *settings],
                results,
                trigger_mode="always_last",
                **{**own, "show_progress": "hidden"},
            )

    def camera_tab(self, settings: list[gr.components.Component]) -> None:
        """The pictures of a camera, as they come."""
        with gr.Row():
            # As the camera sees it, small enough to be sent several times a second.
            small = gr.WebcamOptions(mirror=False, constraints={"video": {"width": {"ideal": 640}}})
            given = uploaded_image(
                label="Camera",
                sources=["webcam"],
                streaming=True,
                elem_id="camera",
                height=HEIGHT,
                webcam_options=small,
            )
            picture = shown_image(elem_id="live", height=HEIGHT, buttons=[])
        text = gr.Markdown("Browsers allow the camera on this machine's own address and over HTTPS only.")
        given.stream(
            self.live,
            [given, *settings],
            [picture, text],
            stream_every=0.2,
            concurrency_limit=2,
            show_progress="hidden",
            api_visibility="private",
        )

    def video_tab(self, settings: list[gr.components.Component]) -> None:
        """A video; its frames are detected once."""
        kept = gr.State(time_to_live=CLEANING[1], delete_callback=lambda video: video and video.forget())
        with gr.Row():
            given = uploaded_video(label="Video", sources=["upload", "webcam"], elem_id="video", height=HEIGHT)
            played = gr.Video(
                interactive=False, show_label=False, elem_id="played", height=HEIGHT, buttons=["download"]
            )
        with gr.Row():
            go = gr.Button("Detect", variant="primary", elem_id="go")
            stop = gr.Button("Stop", elem_id="stop")
        text, save = _line(f"Videos of up to {self.service.limits.seconds} s.", "video")
        data = _json("video", save)
        results: list[Any] = [played, text, data]
        own: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 1}
        running = go.click(self.detect_video, [given, *settings], [kept, *results], **own)
        stop.click(None, cancels=[running], api_visibility="private")
        for setting, event in zip(settings, ("release", "change")):
            getattr(setting, event)(self.redraw_video, [kept, *settings], results, trigger_mode="always_last", **own)

    def detect(self, content: bytes | None, score_thr: float, names: list[str]) -> tuple:
        """Run the model on an image."""
        if content is None:
            return None, None, "", None, None
        with refusals_shown(), self.service.place():
            answer = self.service.answer(content, preview=True)
        return answer, *self.redraw(answer, score_thr, names)

    def redraw(self, answer: Answer | None, score_thr: float, names: list[str]) -> tuple:
        """Picture, line, table and JSON for other settings."""
        if answer is None:
            return None, "", None, None
        classes = self.service.classes
        with refusals_shown():
            found = chosen(answer.found, score_thr, labels_of(names or [], classes))
        data = document([("", answer, found)], classes)
        return shown(answer, found, classes), line(answer, found), rows(found, classes), data

    def live(self, content: bytes | None, score_thr: float, names: list[str]) -> tuple[np.ndarray | None, str]:
        """Run the model on a picture of the camera."""
        picture, text, *_ = self.detect(content, score_thr, names)[1:]
        return picture, text

    def detect_video(self, path: str | None, score_thr: float, names: list[str]) -> Iterator[tuple]:
        """Run the model on a video; tells how far it is."""
        with refusals_shown(), self.service.place():
            if path is None:
                raise Refused(400, "There is no video yet: upload one or record one.")
            video = DetectedVideo(Clip(path, self.service.limits), self.service)
            told = time.monotonic()
            for number in video.detect():
                if time.monotonic() - told > SECONDS_PER_LINE:
                    told = time.monotonic()
                    yield None, None, f"Frame {number} of {max(video.clip.frames, number)}", None
        yield video, *self.redraw_video(video, score_thr, names)

    def redraw_video(self, video: DetectedVideo | None, score_thr: float, names: list[str]) -> tuple:
        """Video, line and JSON for other settings."""
        if video is None:
            return None, "", None
        with refusals_shown():
            labels = labels_of(names or [], self.service.classes)
            drawn = video.draw(score_thr, labels, os.environ.get("GRADIO_TEMP_DIR"))
        data = video.document(score_thr, labels, self.service.classes)
        count, frames = len(data["annotations"]), len(video.answers)
        speed = 1000 * data["info"]["seconds"] / frames
        return str(drawn), f"**{count} objects in {frames} frames** · {speed:.0f} ms per frame", data


def _line(text: str, name: str) -> tuple[gr.Markdown, gr.Button]:
    """The line below the pictures, and beside it the button that saves the JSON."""
    with gr.Row(equal_height=True):
        line = gr.Markdown(text, elem_id=f"{name}-line")
        save = gr.Button("Download JSON", elem_id=f"{name}-download", size="sm", scale=0, min_width=160)
    return line, save


def _json(name: str, save: gr.Button) -> gr.JSON:
    """The JSON, folded; the button saves it in the browser alone."""
    with gr.Accordion("JSON", open=False):
        data = gr.JSON(show_label=False, elem_id=f"{name}-json", max_height=400)
    save.click(None, [data], None, js=DOWNLOAD, api_visibility="private")
    return data
