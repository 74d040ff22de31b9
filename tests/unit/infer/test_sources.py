"""Images, folders and videos as sources; their output files."""

import contextlib
import socket

import cv2
import numpy as np
import pytest

from fcos_train.data.images import read_image
from fcos_train.infer.images import write_image
from fcos_train.infer.sinks import Names, finished
from fcos_train.infer.sources import Frame, Pictures, Video, open_source
from mmcv_overrides.errors import UserError


def make_video(path, frames=3, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 60 * (index + 1), np.uint8))
    writer.release()
    return path


def test_video_round_trip(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"))
    assert isinstance(source, Video) and source.fps == 5.0
    sink = source.sink(tmp_path / "out")
    for frame in source:
        sink.write(frame, 255 - frame.image)
    sink.close()
    assert sink.written == [tmp_path / "out" / "clip_pred.avi"]
    again = list(Video(sink.written[0]))
    assert [f.image.shape for f in again] == [(48, 64, 3)] * 3
    np.testing.assert_allclose([f.image.mean() for f in again], [195, 135, 75], atol=3)
    assert [f.name for f in source] == [f"{tmp_path}/clip.avi frame {i}" for i in (1, 2, 3)]


def test_video_in_mp4(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"))
    source.source = tmp_path / "clip.mp4"  # only the name of the output follows from it
    sink = source.sink(tmp_path)
    sink.write(Frame("f", np.zeros((48, 64, 3), np.uint8)), np.zeros((48, 64, 3), np.uint8))
    sink.close()
    assert len(list(Video(sink.written[0]))) == 1 and sink.written[0].stem == "clip_pred"


def test_folder_in_order_without_earlier_results(tmp_path, picture):
    for name in ("b.png", "a.jpg", "a.PNG", "a_pred.jpg", "lonely_pred.jpg"):
        write_image(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    assert isinstance(source, Pictures)
    assert [p.name for p in source.paths] == ["a.PNG", "a.jpg", "b.png", "lonely_pred.jpg"]
    sink = source.sink(tmp_path / "out")
    names = [sink.write(frame, frame.image).name for frame in source]
    assert names == ["a_pred.jpg", "a_jpg_pred.jpg", "b_pred.jpg", "lonely_pred_pred.jpg"]
    assert read_image(tmp_path / "out" / "b_pred.jpg").shape == picture.shape


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.avi").write_bytes(b"nothing")
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    for source, message in (
        (tmp_path / "empty", "holds no image"),
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path / "x.avi", "cannot open the video .*x.avi"),
        ("97", "cannot open camera 97"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(source)
    with pytest.raises(UserError, match="cannot read image .*x.jpg: it cannot be decoded"):
        list(open_source(tmp_path / "x.jpg"))


def test_several_images_one_of_which_is_broken(tmp_path, picture):
    for name in ("a.png", "c.png"):
        write_image(tmp_path / name, picture)
    (tmp_path / "b.jpg").write_bytes(b"<html>")
    source = open_source(tmp_path)
    assert [frame.name for frame in source] == [str(tmp_path / name) for name in ("a.png", "c.png")]
    assert [str(fault) for fault in source.skipped] == [
        f"cannot read image {tmp_path}/b.jpg: it cannot be decoded: it is an HTML page, as a failed download leaves it"
    ]


def test_patterns(tmp_path, picture):
    for name in ("a.png", "b.jpg", "b_pred.jpg", "below/c.png", "x[1].png"):
        write_image(tmp_path / name, picture)
    make_video(tmp_path / "clip.avi")
    (tmp_path / "notes.txt").write_text("x")

    def names(pattern):
        return [path.name for path in open_source(tmp_path / pattern).paths]

    assert names("*.png") == ["a.png", "x[1].png"] and names("**/*.png") == ["a.png", "c.png", "x[1].png"]
    assert names("*") == ["a.png", "b.jpg", "x[1].png"]
    assert names("x[1].png") == ["x[1].png"]  # a file of that name comes first
    assert isinstance(open_source(tmp_path / "*.avi"), Video)
    make_video(tmp_path / "other.avi")
    for pattern, message in (
        ("*.avi", r"--img .*\*.avi: 2 videos match; give one of them"),
        ("*.txt", r"\*.txt: no image matches \(.jpg, "),
        ("none/*.jpg", "no image matches"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(tmp_path / pattern)


@pytest.mark.parametrize("address", ["s3://b/a.png", "ftp://localhost/a.jpg", "file:///etc/hosts", "gopher://h/*.jpg"])
def test_other_addresses_are_refused_in_one_line(address):
    message = rf"--img .*: {address.partition(':')[0]} addresses are not read \(http, https, rtsp, rtsps, rtmp are\)"
    with pytest.raises(UserError, match=message) as caught:
        open_source(address)
    assert address in str(caught.value) and "\n" not in str(caught.value)


def test_a_stream_without_an_answer(monkeypatch):
    """Nobody listens on the port; user name and password are in no message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        port = taken.getsockname()[1]
        for scheme in ("rtsp", "HTTP"):
            with pytest.raises(
                UserError, match=rf"^cannot open the stream {scheme}://127.0.0.1:{port}/v.mp4: "
            ) as caught:
                open_source(f"{scheme}://me:secret@127.0.0.1:{port}/v.mp4")
            assert "secret" not in str(caught.value)


def test_a_video_that_ends_before_its_header_says(tmp_path, monkeypatch):
    source = open_source(make_video(tmp_path / "clip.avi"))
    assert source.stated == 3 and [frame.note for frame in source] == [None] * 3
    source.stated = 5
    notes = [frame.note for frame in source]
    assert notes == [None, None, f"{tmp_path}/clip.avi: ends after 3 of the 5 frames that its header announces"]
    monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", str(64 * 48 - 1))
    with pytest.raises(UserError, match="cannot read the video .*clip.avi: its 64 x 48 pixels are more than the limit"):
        open_source(tmp_path / "clip.avi")


def test_an_unfinished_video_has_no_name(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"))
    frames = list(source)

    def run(error):
        with finished(source.sink(tmp_path / "out")) as sink:
            for number, frame in enumerate(frames):
                sink.write(frame, frame.image if number < 2 else np.zeros((20, 20, 3), np.uint8))
            assert not (tmp_path / "out" / "clip_pred.avi").exists()
            if error:
                raise error

    with pytest.raises(ValueError):
        run(ValueError())
    assert list((tmp_path / "out").iterdir()) == []
    for error in (KeyboardInterrupt(), None):  # a camera ends with Ctrl-C
        with contextlib.suppress(KeyboardInterrupt):
            run(error)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip_pred.avi"]
        read = [frame.image.shape for frame in Video(tmp_path / "out" / "clip_pred.avi")]
        assert read == [(48, 64, 3)] * 3  # also the frame of another size
        (tmp_path / "out" / "clip_pred.avi").unlink()


def test_each_name_is_given_once():
    names = Names()
    taken = [names.take(name) for name in ("a.jpg", "a.png", "b.jpg", "a.jpg", "a.jpg", "a", "a")]
    assert taken == ["a", "a_png", "b", "a_jpg", "a_jpg_2", "a_2", "a_2_2"]


def test_a_dark_image_of_16_bits_has_a_note(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 4095, np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((8, 8, 3), 65535, np.uint16))
    notes = [frame.note for frame in open_source(tmp_path)]
    assert notes[0].startswith(f"{tmp_path}/a.png: the image has 16 bits for each colour, but values of 12 bits only")
    assert notes[1] is None
